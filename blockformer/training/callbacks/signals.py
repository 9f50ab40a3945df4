"""Be stopped politely: finish the step, save, leave with the signal's exit code."""

import signal
import threading
from types import FrameType

import torch
from lightning.pytorch import LightningModule, Trainer

from blockformer.training.callbacks.checkpoints import Checkpoints
from blockformer.training.callbacks.step_callback import StepCallback, is_sync_step


class InterruptedRun(Exception):  # noqa: N818  (not an error: the run did what it was told)
    """A signal ended the run after a checkpoint was saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}")
        self.signum, self.step = signum, step

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it."""
        return 128 + self.signum


class StopOnSignal(StepCallback):
    """SIGTERM and Ctrl-C, to whichever rank, end the run after the current step and a checkpoint; a second one at once.

    The handler only notes the signal; ranks agree between steps. Lightning's own handler communicates while other ranks
    are elsewhere, which hangs if the signal goes to another rank than the first, and ends with exit code 0.
    """

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        self._checkpoints = checkpoints
        self._noted = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for signum in (signal.SIGTERM, signal.SIGINT):  # Lightning puts the former ones back at its end
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
        """The signal that any rank was sent, 0 for none."""
        if trainer.world_size == 1:
            return self._noted
        noted = torch.tensor(self._noted, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(noted, reduce_op="max"))
