"""Progress of a run: a bar on a terminal, a line now and then in a file or a pipe."""

import math
import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TimeRemainingColumn

from blockformer.phases import phases
from blockformer.training.callbacks.metrics import MetricsLogger, Row
from blockformer.training.module import TrainingModule
from blockformer.training.output import run_log

REFRESHES = 10  # per second


class RunProgress(RichProgressBar):
    """Lightning's bar, over the optimizer steps of the whole run instead of the batches of an epoch.

    Where standard output is no terminal, a line at a time is printed instead. Every validation has its line in both.

    Args:
        metrics: the callback whose rows are shown.
        terminal: whether to draw a bar; when not given, if standard output is a terminal.
        seconds: least time between two lines where no bar is drawn.
    """

    def __init__(self, metrics: MetricsLogger, terminal: bool | None = None, seconds: float = 10.0) -> None:
        super().__init__(refresh_rate=REFRESHES)
        self._rows, self._seconds = metrics, seconds
        self._terminal = sys.stdout.isatty() if terminal is None else terminal
        self._shown = metrics.row
        self._printed = self._begun = 0.0
        self._first = 0

    @property
    def is_enabled(self) -> bool:
        """Whether a bar is drawn: on a terminal, in the first process."""
        return self._terminal and super().is_enabled

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        return [SpinnerColumn(), MofNCompleteColumn(), BarColumn(10), TimeRemainingColumn()]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return dict(figures(self._rows.row, "train", brief=True))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, TrainingModule)
        self._first, self._begun = trainer.global_step, time.monotonic()
        self._begin_first(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Say again what comes after the validation that a stop interrupted."""
        assert isinstance(pl_module, TrainingModule)
        if trainer.global_step == self._first and not phases.shown:
            self._begin_first(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the bar with the first epoch; later ones continue it."""
        assert isinstance(pl_module, TrainingModule)
        if self.progress is not None and self.train_progress_bar_id is None:
            self.train_progress_bar_id = self.progress.add_task("", total=pl_module.total_steps or None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        if trainer.global_step > self._first:
            phases.end()
        self.on_train_epoch_start(trainer, pl_module)  # a run that continues inside an epoch has no start of it
        self._update(self.train_progress_bar_id, trainer.global_step)
        self._update_metrics(trainer, pl_module)
        fresh = self._rows.row is not self._shown
        if not self._due(fresh and trainer.global_step == pl_module.total_steps):
            return
        self._shown = row = self._rows.row
        position = self._position(int(row["step"]) if fresh else trainer.global_step, pl_module.total_steps)
        line = f"{position}  {summary(row, 'train')}" if fresh else position
        if self._terminal:
            run_log().note(line)  # the bar shows it
        else:
            self._line(line)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        self._printed = time.monotonic()
        phases.end()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if not self._terminal and self._due(last=False):
            self._line(
                f"step {trainer.global_step}  validating: batch {batch_idx + 1}/{_total(trainer.num_val_batches)}"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self._rows.validation and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._printed = time.monotonic()
            self._line(f"step {trainer.global_step}  validation: {summary(self._rows.validation, 'val')}")

    def _begin_first(self, pl_module: TrainingModule) -> None:
        """The phase of the first step, which may be long, if there is a step to make."""
        if not pl_module.total_steps or self._first < pl_module.total_steps:
            phases.begin(("compiling, then " if pl_module.compiled else "") + f"step {self._first + 1}")

    def _due(self, last: bool) -> bool:
        due = last or time.monotonic() - self._printed >= self._seconds
        self._printed = time.monotonic() if due else self._printed
        return due

    def _position(self, step: int, total: int) -> str:
        if not total:
            return f"step {step}"
        left = int((time.monotonic() - self._begun) / max(1, step - self._first) * (total - step))
        return f"step {step}/{total}  {left // 60}:{left % 60:02d} left"

    def _line(self, text: str) -> None:
        if self.progress is not None:
            self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
            run_log().note(text)
        elif self._enabled:
            print(text, flush=True)


class EvaluationPhase(Callback):
    """Says how far `validate`, `test` or `predict` is, where no bar does.

    Args:
        shown: whether to print it.
    """

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        phases.at(f": batch {batch_idx + 1}/{_total(trainer.num_val_batches)}")

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        phases.at(f": batch {batch_idx + 1}/{_total(trainer.num_test_batches)}")

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        phases.at(f": batch {batch_idx + 1}/{_total(trainer.num_predict_batches)}")

    def _start(self, trainer: Trainer) -> None:
        phases.end()
        if self._shown and trainer.state.fn is not None:
            phases.begin(trainer.state.fn.value)


def _total(batches: list[int | float] | int | float) -> int | float:
    """Batches of all loaders."""
    return sum(batches) if isinstance(batches, list) else batches


_OF_TEXTS = ("f1", "rmse", "pearson", "spearman")  # figures of objectives that score one row for each text


def figures(row: Row, stage: str, *, brief: bool = False) -> list[tuple[str, str]]:
    """The main figures of a row with their names; ``brief``: as many as fit beside a bar in 80 columns."""
    found: list[tuple[str, str]] = []
    # Files store what is not finite as null; a file of a stranger may have texts.
    row = {name: value if isinstance(value, int | float) else math.nan for name, value in row.items()}
    if f"{stage}/loss" in row:
        found.append(("loss", f"{row[f'{stage}/loss']:.4f}"))
    if f"{stage}/bits_per_byte" in row:
        found.append(("bits/byte", f"{row[f'{stage}/bits_per_byte']:.3f}"))
    if f"{stage}/accuracy" in row and not (brief and len(found) > 1):
        found.append(("accuracy", f"{row[f'{stage}/accuracy']:.3f}"))
    if not brief:
        found += [(name, f"{row[f'{stage}/{name}']:.3f}") for name in _OF_TEXTS if f"{stage}/{name}" in row]
        of = f"{stage}/loss/"
        found += [(f"loss of {name.removeprefix(of)}", f"{row[name]:.4f}") for name in row if name.startswith(of)]
        own = [name for name in row if stage == "val" and name.startswith("eval/")]
        found += [(name.removeprefix("eval/"), f"{row[name]:.4f}") for name in own]
    if "tokens_per_second" in row:
        found.append(("tokens/s", f"{row['tokens_per_second']:,.0f}"))
    return found


def summary(row: Row, stage: str) -> str:
    """The figures of a row that a person watches, on one line."""
    return "  ".join(f"{name} {value}" for name, value in figures(row, stage))
