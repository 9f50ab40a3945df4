"""Show how far a run is: a bar on a terminal, a line now and then in a file or a pipe."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich import progress as rich_progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn

from blockformer.training.callbacks.metrics import MetricsLogger, Row
from blockformer.training.module import TrainingModule


class RunProgress(ProgressBar):
    """Shows the meter's figures beside the steps made, on the first rank.

    Args:
        meter: whose rows to show.
        terminal: whether to draw a bar; when not given, if standard output is a terminal.
        seconds: at least this long between two lines where no bar is drawn; validation always has its line.
    """

    def __init__(self, meter: MetricsLogger, terminal: bool | None = None, seconds: float = 10.0) -> None:
        super().__init__()
        self._meter, self._seconds = meter, seconds
        self._terminal = sys.stdout.isatty() if terminal is None else terminal
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar: rich_progress.Progress | None = None
        self._enabled = True
        self._shown = meter.row
        self._printed = self._begun = 0.0
        self._first = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        self._first, self._begun = trainer.global_step, time.monotonic()
        if self._enabled and self._terminal:
            columns = (
                SpinnerColumn(),
                MofNCompleteColumn(),
                BarColumn(10),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = rich_progress.Progress(*columns, console=self._console)
            self._bar.add_task("", total=pl_module.total_steps or None, completed=trainer.global_step)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        fresh, self._shown = self._meter.row is not self._shown, self._meter.row
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=trainer.global_step, description=summary(self._shown, "train", brief=True))
        elif self._enabled and fresh and self._due(trainer, pl_module.total_steps):
            self._line(f"{self._place(trainer, pl_module.total_steps)}  {summary(self._shown, 'train')}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled and self._meter.validation and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._line(f"step {trainer.global_step}  validation: {summary(self._meter.validation, 'val')}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _due(self, trainer: Trainer, total: int) -> bool:
        late = time.monotonic() - self._printed >= self._seconds
        if late or trainer.global_step == total:
            self._printed = time.monotonic()
            return True
        return False

    def _place(self, trainer: Trainer, total: int) -> str:
        step = trainer.global_step
        if not total:
            return f"step {step}"
        left = (time.monotonic() - self._begun) / max(1, step - self._first) * (total - step)
        return f"step {step}/{total}  {int(left) // 60}:{int(left) % 60:02d} left"

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False)
        if not self._terminal:
            sys.stdout.flush()


def summary(row: Row, stage: str, *, brief: bool = False) -> str:
    """The few figures of a row that a person watches; ``brief`` leaves room for a bar in 80 columns."""
    parts = [f"loss {row[f'{stage}/loss']:.4f}"] if f"{stage}/loss" in row else []
    if f"{stage}/bits_per_byte" in row:
        parts.append(f"{row[f'{stage}/bits_per_byte']:.3f} bits/byte")
    if f"{stage}/accuracy" in row and not (brief and len(parts) > 1):
        parts.append(f"accuracy {row[f'{stage}/accuracy']:.3f}")
    if "tokens_per_second" in row:
        parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)
