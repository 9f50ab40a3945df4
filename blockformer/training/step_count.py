"""How many batches make an epoch, and how many optimizer steps a run."""

from typing import TYPE_CHECKING, Any

from blockformer.errors import UserError
from blockformer.training.optimizer import OptimizerSettings

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def align_epochs(trainer: "Trainer") -> None:
    """Let epochs and validations begin only between optimizer steps.

    Lightning counts both in batches. Where several batches make a step, its epochs would end in a smaller step, and a
    checkpoint after a validation could fall into the middle of one, whose gradients it cannot hold. A shorter epoch
    loses nothing: the training loader goes on where it was.

    Raises:
        UserError: a step needs more batches than an epoch has, or validations are set to fall between two steps.
    """
    parts, batches = trainer.accumulate_grad_batches, batches_per_epoch(trainer)
    if parts == 1:
        return
    if batches < parts:
        raise UserError(f"trainer.accumulate_grad_batches {parts} is more than an epoch has: {batches} batches")
    trainer.limit_train_batches = batches - batches % parts
    interval = trainer.val_check_interval
    if isinstance(interval, float):
        batches_between = int(trainer.limit_train_batches * interval)
        trainer.val_check_interval = max(parts, batches_between - batches_between % parts)
    elif interval % parts:
        raise UserError(
            f"trainer.val_check_interval {interval} counts batches, of which {parts} make a step "
            f"(trainer.accumulate_grad_batches): say {max(parts, interval - interval % parts)}"
        )


def total_steps(trainer: "Trainer", settings: OptimizerSettings) -> int:
    """Optimizer steps of the whole run, by `max_steps` or `max_epochs`, whichever ends it first; 0 where neither does.

    Lightning's own `estimated_stepping_batches` makes the training data early, and what a checkpoint said about the
    place in it is then lost.

    Raises:
        UserError: the schedule must know the end, and nothing tells it.
    """
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        limits.append(trainer.max_epochs * (batches_per_epoch(trainer) // trainer.accumulate_grad_batches))
    if not limits and settings.schedule == "cosine" and settings.decay_steps is None:
        raise UserError(
            "the cosine schedule must know where the run ends: "
            "give trainer.max_steps, trainer.max_epochs or optimizer.decay_steps"
        )
    return min(limits, default=0)


def batches_per_epoch(trainer: "Trainer") -> int:
    """Batches of one process in what Lightning calls an epoch; TextData counts them without making a loader."""
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "batches_per_epoch"):
        length = data.batches_per_epoch()
    else:
        length = len(trainer.fit_loop._data_source.instance if data is None else data.train_dataloader())
    limit = trainer.limit_train_batches
    return min(length, limit) if isinstance(limit, int) else int(length * limit)
