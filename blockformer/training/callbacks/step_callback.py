"""The base class of callbacks that act once per optimizer step, and which steps are reported."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class StepCallback(Callback):
    """Calls :meth:`after_step` after each optimizer step, not after each of the batches accumulated for it."""

    _step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.after_step(trainer, pl_module, self._step)

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Act; ``step`` is the number of optimizer steps made so far."""
        raise NotImplementedError


def is_dry_run(trainer: Any) -> bool:
    """True for `trainer.fast_dev_run`, which must write nothing."""
    return bool(trainer.fast_dev_run)


def is_reporting_step(trainer: Any, step: int) -> bool:
    """True every `log_every_n_steps` steps and at the last step."""
    return step % max(1, trainer.log_every_n_steps) == 0 or step == trainer.max_steps


def is_due(step: int, every: int) -> bool:
    """True at the first step of a run and at each multiple of ``every``."""
    return step == 1 or step % every == 0


def is_sync_step(trainer: Trainer, step: int) -> bool:
    """True where reading values off the device costs nothing extra: always on a CPU, else at reporting steps."""
    return trainer.strategy.root_device.type == "cpu" or is_reporting_step(trainer, step)
