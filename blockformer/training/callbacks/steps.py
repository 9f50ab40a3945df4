"""When, in a run, something is due."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class AfterStep(Callback):
    """A callback that acts after optimizer steps, and not after each part of an accumulated batch."""

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
        """Act; ``step`` counts optimizer steps, this one included."""
        raise NotImplementedError


def rehearses(trainer: Any) -> bool:
    """Whether this is only `trainer.fast_dev_run`, which leaves nothing behind."""
    return bool(trainer.fast_dev_run)


def logs(trainer: Any, step: int) -> bool:
    """Whether figures are reported after this step: at each interval and at the end."""
    return step % max(1, trainer.log_every_n_steps) == 0 or step == trainer.max_steps


def checks(trainer: Trainer, step: int) -> bool:
    """Whether to ask for what makes an accelerator wait: each time on a CPU, else when reporting waits anyway."""
    return trainer.strategy.root_device.type == "cpu" or logs(trainer, step)
