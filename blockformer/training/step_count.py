"""Number of batches in an epoch and of optimizer steps in a run."""

from typing import TYPE_CHECKING, Any

from blockformer.errors import UserError
from blockformer.training.optimizers import OptimizerSettings

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def align_epochs(trainer: "Trainer") -> None:
    """Round epochs and validation intervals down to whole optimizer steps.

    Lightning counts both in batches. With gradient accumulation its epochs could end in a smaller step, and a
    checkpoint after a validation could fall inside a step, whose accumulated gradients it does not store. No data is
    lost: the next epoch continues with the batches that were left over.

    Raises:
        UserError: a step needs more batches than an epoch has, or a validation interval is no whole number of steps.
    """
    parts, batches = trainer.accumulate_grad_batches, batches_per_epoch(trainer)
    if parts == 1:
        return
    if batches < parts:
        raise UserError(
            f"trainer.accumulate_grad_batches {parts} is more than the {batches} batches of an epoch: lower it"
        )
    trainer.limit_train_batches = batches - batches % parts
    if (interval := getattr(trainer, "val_check_interval", None)) is None:
        raise UserError(
            f"trainer.val_check_interval as a time could validate inside a step of {parts} batches "
            "(trainer.accumulate_grad_batches): set it to a number of batches"
        )
    if isinstance(interval, float):
        batches_between = int(trainer.limit_train_batches * interval)
        trainer.val_check_interval = max(parts, batches_between - batches_between % parts)
    elif interval % parts:
        raise UserError(
            f"trainer.val_check_interval {interval} counts batches, of which {parts} make a step "
            f"(trainer.accumulate_grad_batches): set it to {max(parts, interval - interval % parts)}"
        )


def total_steps(trainer: "Trainer", settings: OptimizerSettings, data: Any = None) -> int:
    """Optimizer steps of the whole run, by `max_steps` or `max_epochs`, whichever is less; 0 if neither is set.

    Lightning's own `estimated_stepping_batches` creates the training loader before a checkpoint's position is restored.

    Args:
        trainer: the trainer.
        settings: the schedule.
        data: the data module, while the trainer does not have it yet.

    Raises:
        UserError: the schedule needs the length of the run, and it is not set; or the run is shorter than
            `min_steps` or `min_epochs`.
    """
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        limits.append(trainer.max_epochs * (batches_per_epoch(trainer, data) // trainer.accumulate_grad_batches))
    if not limits and settings.schedule.needs_length:
        decay = " or optimizer.decay_steps" if hasattr(settings.schedule, "decay_steps") else ""
        raise UserError(
            f"optimizer.schedule {settings.schedule_name} needs the length of the run: "
            f"set trainer.max_steps, trainer.max_epochs{decay}"
        )
    if limits:
        _check_minimum(trainer, min(limits), data)
    return min(limits, default=0)


def _check_minimum(trainer: "Trainer", steps: int, data: Any) -> None:
    epoch = batches_per_epoch(trainer, data) // trainer.accumulate_grad_batches
    for option, least in (("min_steps", trainer.min_steps or 0), ("min_epochs", (trainer.min_epochs or 0) * epoch)):
        if least > steps:
            raise UserError(f"trainer.{option} asks for {least} steps, and the run has {steps}: lower it")


def batches_per_epoch(trainer: "Trainer", data: Any = None) -> int:
    """Batches of one process in what Lightning calls an epoch; TextData counts them without making a loader."""
    data = getattr(trainer, "datamodule", None) if data is None else data
    if hasattr(data, "batches_per_epoch"):
        length = data.batches_per_epoch()
    else:
        loader: Any = trainer.fit_loop._data_source.instance if data is None else data.train_dataloader()
        length = len(loader)
    limit = trainer.limit_train_batches
    return min(length, limit) if isinstance(limit, int) else int(length * limit)
