"""Reject settings of Lightning's trainer that have no effect here, or leave nothing to do."""

import os
from collections.abc import Iterator
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from blockformer.errors import UserError
from blocks.models.base import Model

# What each verb reads a share of.
_LIMITS = {
    "fit": "limit_train_batches",
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}
_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 1,
    "num_nodes": 1,
    "num_sanity_val_steps": -1,
}
_WITHOUT_EFFECT = {
    "barebones": "it leaves out checkpoints, metrics and progress, which every run keeps",
    "default_root_dir": "a run is written to --run.root and --run.name",
    "model_registry": "no checkpoint is uploaded",
    "reload_dataloaders_every_n_epochs": "batches depend on the seed and the step alone",
    "use_distributed_sampler": "the processes share each batch by themselves",
}
_ELSEWHERE = ("MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID", "TORCHELASTIC_RUN_ID", "KUBERNETES_PORT")


def check_settings(verb: str, trainer: Any, model: Model) -> None:
    """Refuse settings of the trainer that do not do what they say.

    Args:
        verb: fit, validate, test or predict.
        trainer: the settings, as attributes by their names.
        model: the model of the recipe.

    Raises:
        UserError: there is one; the message is one line with the reason.
    """
    for option, reason in _problems(verb, trainer, model):
        raise UserError(f"--trainer.{option} {_spelled(getattr(trainer, option))}: {reason}")


def check_precision_given(wanted: Any, trainer: Any) -> None:
    """Refuse a precision that Lightning has replaced by another.

    Raises:
        UserError: it has.
    """
    if str(wanted) in ("16", "16-mixed") and trainer.precision != "16-mixed":
        raise UserError(f"--trainer.precision {wanted}: is not supported on a CPU; use {trainer.precision}")


def _problems(verb: str, trainer: Any, model: Model) -> Iterator[tuple[str, str]]:
    yield from _out_of_range(trainer)
    limits = [_LIMITS[verb], *(["max_steps", "max_epochs"] if verb == "fit" else [])]
    for option in [option for option in limits if getattr(trainer, option) == 0]:
        yield option, f"leaves nothing to {verb}; set it to more, or leave it out"
    if (duration := trainer.max_time) is not None and not any(map(_is_more, _parts(duration))):
        yield "max_time", "leaves nothing to fit; set it to more, or leave it out"
    for option, reason in _WITHOUT_EFFECT.items():
        if getattr(trainer, option):
            yield option, f"has no effect here, because {reason}: leave it out"
    if not trainer.enable_autolog_hparams:
        yield "enable_autolog_hparams", "every run keeps its facts.json; --run.wandb disabled is for W&B"
    if trainer.sync_batchnorm and not any(isinstance(module, _BatchNorm) for module in model.modules()):
        yield "sync_batchnorm", "this model has no batch norm: leave it out"
    if trainer.num_nodes > 1 and not any(name in os.environ for name in _ELSEWHERE):
        yield "num_nodes", "start each node with torchrun or SLURM, or set MASTER_ADDR, MASTER_PORT and NODE_RANK there"


def _out_of_range(trainer: Any) -> Iterator[tuple[str, str]]:
    for option, least in _LEAST.items():
        value = getattr(trainer, option)
        if value is not None and value < least:
            yield option, f"must be at least {least}"
    if isinstance(interval := trainer.val_check_interval, int | float) and interval <= 0:
        yield "val_check_interval", "must be above 0; --trainer.limit_val_batches 0 is for no validation"
    if (trainer.gradient_clip_val or 0) < 0:
        yield "gradient_clip_val", "must be at least 0, which is for not clipping"
    for unit in ("steps", "epochs"):
        least, most = getattr(trainer, f"min_{unit}"), getattr(trainer, f"max_{unit}")
        if least is not None and most is not None and 0 < most < least:
            yield f"min_{unit}", f"is more than --trainer.max_{unit} {most}"


def _parts(duration: Any) -> list[Any]:
    """The days, hours, minutes and seconds of a duration as it is given."""
    return list(duration.values()) if isinstance(duration, dict) else str(duration).split(":")


def _is_more(part: Any) -> bool:
    """Whether a part of a duration is not zero; what is no number is left to Lightning to refuse."""
    return str(part).strip("0.") != ""


def _spelled(value: Any) -> str:
    """A value as it is given on a command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
