"""Stop a run on SIGTERM, SIGINT (Ctrl-C) or SIGHUP: finish the step, save, exit with the code of the signal."""

import signal
from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule, Trainer

from blockformer import signals
from blockformer.training.callbacks.checkpoints import Checkpoints
from blockformer.training.callbacks.step_callback import StepCallback, is_sync_step


class InterruptedRun(Exception):  # noqa: N818  (not an error: the run was asked to stop)
    """A signal ended the run.

    Args:
        signum: the signal.
        step: number of optimizer steps made.
        saved: whether `last.ckpt` is of this step; False: the run writes no checkpoints.
    """

    def __init__(self, signum: int, step: int, *, saved: bool = True) -> None:
        advice = "continue with --ckpt_path last" if saved else "this run saves no checkpoints"
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}; {advice}")
        self.signum, self.step = signum, step

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it."""
        return 128 + self.signum


class StopOnSignal(StepCallback):
    """On a signal to any rank, ends the run after the current step and a checkpoint.

    During a validation it ends after the current batch: the checkpoint is of the step before, and a continued run
    repeats the validation. A second signal ends the process at once.

    The handler only records the signal; the ranks exchange it between steps. Lightning's own handler communicates at
    any time, which hangs if the signal reaches another rank than the first, and the process exits with code 0.
    """

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        self._checkpoints = checkpoints
        self._noted = 0
        self._undo: Callable[[], None] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._undo = signals.deferred(self._note)

    def _note(self, signum: int) -> None:
        self._noted = signum

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        if trainer.world_size == 1 or is_sync_step(trainer, step):
            self._stop_if_asked(trainer, module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._undo is not None:
            self._stop_if_asked(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer, pl_module)
        self._finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None

    def _stop_if_asked(self, trainer: Trainer, module: LightningModule) -> None:
        """Save, unless this step is saved, and end the run if any rank has received a signal.

        Raises:
            InterruptedRun: it has.
        """
        if signum := self._agreed(trainer):
            if self._checkpoints is not None:
                self._checkpoints.on_train_end(trainer, module)
            raise InterruptedRun(signum, trainer.global_step, saved=self._checkpoints is not None)

    def _agreed(self, trainer: Trainer) -> int:
        """The signal that any rank has received; 0: none."""
        if trainer.world_size == 1:
            return self._noted
        noted = torch.tensor(self._noted, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(noted, reduce_op="max"))
