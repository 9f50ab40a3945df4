"""Stop a run that has diverged, before it is saved."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from blockformer.training.callbacks.steps import AfterStep, checks
from blockformer.training.module import TrainingModule


class NonFiniteError(RuntimeError):
    """The loss or the gradient is no longer a number; the message is one line and says since when."""


class Guard(AfterStep):
    """Looks whether loss and gradient are finite: after each step on a CPU, else when reporting, before checkpoints.

    Between looks the answer stays on the device, so that it need not be waited for.
    """

    def __init__(self) -> None:
        self._since: Tensor | None = None  # the first step that was not finite, 0 while there is none

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, TrainingModule)
        assert module.window is not None
        finite = module.window.isfinite().all()
        if trainer.precision != "16-mixed" and module.gradient_norm is not None:  # its scaler skips such steps
            finite = finite & module.gradient_norm.isfinite()
        since = self._since if self._since is not None else torch.zeros((), device=finite.device)
        self._since = torch.where(finite | (since > 0), since, float(step))
        if checks(trainer, step):
            self.check()

    def check(self) -> None:
        """Wait for the answer.

        Raises:
            NonFiniteError: a step's loss or gradient was infinite or not a number.
        """
        if self._since is not None and (since := int(self._since.item())):
            raise NonFiniteError(
                f"the loss or its gradient is not finite since step {since}: a lower --optimizer.lr, more "
                "--optimizer.warmup_steps or --trainer.gradient_clip_val may help"
            )
