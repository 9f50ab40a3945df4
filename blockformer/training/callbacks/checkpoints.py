"""Keep the newest state of a run, and the best."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from blockformer.errors import UserError
from blockformer.files import remove_drafts
from blockformer.training.callbacks.guard import Guard
from blockformer.training.callbacks.steps import AfterStep, rehearses

LAST, BEST = "last.ckpt", "best.ckpt"


class Checkpoints(AfterStep, Checkpoint):
    """Writes `last.ckpt` at an interval and at the end, and `best.ckpt` after each validation that is the best so far.

    Always under these names, in one folder; a run that diverged is not saved.

    Args:
        folder: where the files lie.
        every: optimizer steps between two versions of `last.ckpt`; 0 for only at the end.
        monitor: the figure that is best when lowest.
        guard: asked before each checkpoint whether the run is sound.
    """

    def __init__(self, folder: Path, every: int, monitor: str, guard: Guard) -> None:
        self.folder, self.every, self.monitor, self.guard = folder, every, monitor, guard
        self.best: float | None = None
        self._saved = -1

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved = trainer.global_step if trainer.ckpt_path else -1
        if trainer.is_global_zero:
            remove_drafts(self.folder)

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        if step == trainer.max_steps or (self.every and step % self.every == 0):
            self.save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or rehearses(trainer):
            return
        value = self._monitored(trainer)
        if self.best is None or value < self.best:
            self.best = value
            self.guard.check()
            trainer.save_checkpoint(self.folder / BEST)
        if self._saved == trainer.global_step:  # so that continuing does not validate this step again, nor forget it
            self.save_last(trainer)

    def _monitored(self, trainer: Trainer) -> float:
        figures = trainer.callback_metrics
        if self.monitor not in figures:
            raise UserError(f"run.monitor {self.monitor} is none of the figures {', '.join(sorted(figures))}")
        return figures[self.monitor].item()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._saved != trainer.global_step:
            self.save_last(trainer)

    def save_last(self, trainer: Trainer) -> None:
        """Write `last.ckpt`; every rank must call this.

        Raises:
            NonFiniteError: the run has diverged.
            OSError: the file cannot be written; the one before stays.
        """
        if rehearses(trainer):
            return
        self.guard.check()
        trainer.save_checkpoint(self.folder / LAST)
        self._saved = trainer.global_step
