"""Graceful stop on SIGTERM or Ctrl-C: finish the step, save, exit with the code of the signal."""

import signal
import threading
from types import FrameType

import torch
from lightning.pytorch import LightningModule, Trainer

from blockformer.training.callbacks.checkpoints import Checkpoints
from blockformer.training.callbacks.step_callback import StepCallback, is_sync_step


class InterruptedRun(Exception):  # noqa: N818  (not an error: the run was asked to stop)
    """A signal ended the run after a checkpoint was saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}")
        self.signum, self.step = signum, step

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it."""
        return 128 + self.signum


class StopOnSignal(StepCallback):
    """On SIGTERM or Ctrl-C to any rank, ends the run after the current step and a checkpoint; on a second one at once.

    The handler only records the signal; the ranks exchange it between steps. Lightning's own handler communicates at
    any time, which hangs if the signal reaches another rank than the first, and the process exits with code 0.
    """

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        self._checkpoints = checkpoints
        self._noted = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for signum in (signal.SIGTERM, signal.SIGINT):  # Lightning restores the previous handlers
                signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._noted = signum
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        if trainer.world_size > 1 and not is_sync_step(trainer, step):
            return
        if signum := self._agreed(trainer):
            if self._checkpoints is not None:
                self._checkpoints.save_last(trainer)
            raise InterruptedRun(signum, step)

    def _agreed(self, trainer: Trainer) -> int:
        """The signal that any rank has received; 0: none."""
        if trainer.world_size == 1:
            return self._noted
        noted = torch.tensor(self._noted, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(noted, reduce_op="max"))
