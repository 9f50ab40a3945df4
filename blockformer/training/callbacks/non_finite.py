"""Stop a run whose loss is no longer finite, before a checkpoint is written."""

import math

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from blockformer.training.callbacks.step_callback import StepCallback, is_sync_step
from blockformer.training.module import TrainingModule

REMEDY = "a lower --optimizer.lr, more --optimizer.warmup_steps or a lower --trainer.gradient_clip_val may help"


class NonFiniteError(RuntimeError):
    """A loss or gradient is infinite or NaN; the message is one line and names the step."""


class NonFiniteGuard(StepCallback):
    """Raises an error when a training loss, a gradient or a validation loss is infinite or NaN.

    Training is checked after each step on a CPU, else at reporting steps, and before each checkpoint; the flag stays on
    the device in between, so that steps need not wait for it. Validation is checked when it ends.
    """

    def __init__(self) -> None:
        self._since: Tensor | None = None  # the first step that was not finite; 0: none

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, TrainingModule)
        assert module.window is not None
        finite = module.window.isfinite().all()
        if trainer.precision != "16-mixed" and module.gradient_norm is not None:  # its scaler skips such steps
            finite = finite & module.gradient_norm.isfinite()
        since = self._since if self._since is not None else torch.zeros((), device=finite.device)
        self._since = torch.where(finite | (since > 0), since, float(step))
        if is_sync_step(trainer, step):
            self.check()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation loss.

        Raises:
            NonFiniteError: it is infinite or NaN.
        """
        loss = getattr(pl_module, "evaluation", {}).get("val/loss", 0.0)
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not math.isfinite(loss):
            raise NonFiniteError(f"val/loss is {loss} after step {trainer.global_step}: {REMEDY}")

    def check(self) -> None:
        """Read the flag off the device.

        Raises:
            NonFiniteError: the loss or gradient of a step was infinite or NaN.
        """
        if self._since is not None and (since := int(self._since.item())):
            raise NonFiniteError(f"the loss or its gradient is not finite since step {since}: {REMEDY}")
