"""Check that a checkpoint has the keys, types and shapes of the trainer's state, before training continues from it."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _BaseProgress
from torch import Tensor

from blockformer.assembly.builder import build_unchecked
from blockformer.assembly.checkpoint import METADATA, PREFIX, LoadError
from blockformer.assembly.checkpoint_schema import short_name
from blockformer.assembly.loading import mismatched_weights
from blockformer.errors import UserError
from blockformer.training.optimizers import OptimizerSettings
from blocks.models.base import Model

LOOPS = {"fit": "fit_loop", "validate": "validate_loop", "test": "test_loop", "predict": "predict_loop"}
MOST = 2**62  # of a count


class StateMismatchError(UserError):
    """A value does not match the trainer's own; the message names its key."""


def check_state(content: Mapping[str, Any], trainer: Any, module: Any) -> None:
    """Check what Lightning is about to restore.

    Args:
        content: of the checkpoint, checked as :func:`blockformer.assembly.checkpoint.read_checkpoint` does.
        trainer: Lightning's trainer, before it restores.
        module: the :class:`~blockformer.training.module.TrainingModule`.

    Raises:
        LoadError: a part is missing, or its keys, types or shapes are not those of this trainer's own state.
    """
    model = build_unchecked(module.recipe)
    verb = trainer.state.fn.value
    try:
        _weights(content["state_dict"], model, module)
        data = trainer.datamodule
        if data is not None and (verb == "fit" or type(data).__qualname__ in content):
            _part(content, type(data).__qualname__, data.state_dict())
        if verb == "fit" or content.get("loops") is not None:
            name = LOOPS[verb]
            _part(content, "loops", {name: dict(_progress(getattr(trainer, name)))})
        if verb == "fit":
            _part(content[METADATA], "tokens", 0)
            _loader(content["loops"]["fit_loop"])
            _part(content, "lr_schedulers", [])
            _callbacks(content, trainer)
            _optimizer(content, model, module.settings)
            plugin = trainer.precision_plugin
            if type(plugin).__qualname__ in content:
                _part(content, type(plugin).__qualname__, plugin.state_dict())
    except StateMismatchError as error:
        raise unusable(trainer, error) from None


def unusable(trainer: Any, error: StateMismatchError) -> LoadError:
    """The error for a checkpoint that a trainer cannot go on from."""
    return LoadError(f"{trainer.ckpt_path}: {error}, so training cannot continue from this checkpoint")


def _weights(state: Mapping[str, Tensor], model: Model, module: Any) -> None:
    wanted = {PREFIX + name: tensor for name, tensor in model.state_dict().items()}
    wanted |= {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(PREFIX)}
    if problem := next(mismatched_weights(wanted, state), None):
        raise StateMismatchError(f"state_dict: {problem}")


def _progress(loop: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The counts of a loop and the loops in it, as Lightning stores them."""
    yield f"{prefix}state_dict", {}
    for name, part in vars(loop).items():
        if isinstance(part, _BaseProgress):
            yield prefix + name, part.state_dict()
        elif isinstance(part, _Loop):
            yield from _progress(part, f"{prefix}{name}.")


def _callbacks(content: Mapping[str, Any], trainer: Any) -> None:
    _part(content, "callbacks", {})
    for callback in trainer.callbacks:
        if callback.state_key in content["callbacks"]:
            compare_state(
                callback.state_dict(), content["callbacks"][callback.state_key], f"callbacks.{callback.state_key}"
            )


def _loader(loop: Mapping[str, Any]) -> None:
    """The place in the training data, which a trainer that has not begun does not have."""
    steps = loop["epoch_loop.state_dict"].get("_batches_that_stepped", 0)
    compare_state(0, steps, "loops.fit_loop.epoch_loop.state_dict._batches_that_stepped")
    loaders = loop["state_dict"].get("combined_loader", [])
    compare_state(
        [{"step": 0}] * len(loaders) if isinstance(loaders, list) else [], loaders, "loops.fit_loop.state_dict"
    )


def _optimizer(content: Mapping[str, Any], model: Model, settings: OptimizerSettings) -> None:
    trained = ((content[METADATA].get("config") or {}).get("optimizer") or {}).get("type", settings.type)
    if trained != settings.type:
        raise StateMismatchError(f"it has the state of optimizer {trained}, not of {settings.type}")
    if settings.ema is None and "WeightAverage" in (content.get("callbacks") or {}):
        raise StateMismatchError("its weights are a running mean (optimizer.ema), and this run has none")
    settings.choose_trained(model)
    own = settings.make(model, fused=False)
    _part(content, "optimizer_states", [{"state": {}, "param_groups": own.state_dict()["param_groups"]}])
    saved = content["optimizer_states"][0]
    parameters = [(one, bool(group["matrix"])) for group in own.param_groups for one in group["params"]]
    counted = [number for group in saved["param_groups"] for number in group["params"]]
    if counted != list(range(len(parameters))):
        raise StateMismatchError("optimizer_states.0.param_groups: params are not those of this model")
    for number, held in saved["state"].items():
        where = f"optimizer_states.0.state.{short_name(number)}"
        if type(number) is not int or not 0 <= number < len(parameters):
            raise StateMismatchError(f"{where} belongs to no parameter")
        parameter, matrix = parameters[number]
        for key, shape in settings.optimizer.state_shapes(parameter, matrix=matrix).items():
            value = held.get(key) if isinstance(held, Mapping) else None
            if not isinstance(value, Tensor) or tuple(value.shape) != shape or not value.is_floating_point():
                raise StateMismatchError(f"{where}.{key} is not a tensor of shape {shape}")


def _part(content: Mapping[str, Any], key: str, template: Any) -> None:
    if content.get(key) is None:
        raise StateMismatchError(f"{key} is missing")
    compare_state(template, content[key], key)


def compare_state(template: Any, value: Any, path: str) -> None:
    """Compare keys and types with those of a template; a value may have more keys, and a number for None.

    Raises:
        StateMismatchError: they differ.
    """
    if isinstance(template, Mapping):
        _compare_mapping(template, value, path)
    elif isinstance(template, list | tuple):
        if type(value) is not type(template) or (template and len(value) != len(template)):
            raise StateMismatchError(f"{path} is not a {type(template).__name__} of {len(template)}")
        for place, (part, other) in enumerate(zip(template, value, strict=False)):
            compare_state(part, other, f"{path}.{place}")
    elif isinstance(template, Tensor):
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (template.shape, template.dtype):
            raise StateMismatchError(f"{path} is not a tensor of shape {tuple(template.shape)} and {template.dtype}")
    elif not _same_kind(template, value):
        raise StateMismatchError(f"{path} has a wrong value")


def _compare_mapping(template: Mapping[Any, Any], value: Any, path: str) -> None:
    if not isinstance(value, Mapping):
        raise StateMismatchError(f"{path} is not a mapping")
    for key, part in template.items():
        if key not in value:
            raise StateMismatchError(f"{path}.{key} is missing")
        compare_state(part, value[key], f"{path}.{key}")


def _same_kind(template: Any, value: Any) -> bool:
    if template is None:
        return value is None or isinstance(value, bool | int | float)
    if type(template) is int:
        return type(value) is int and 0 <= value <= MOST
    if type(template) is float:
        return type(value) in (int, float) or (isinstance(value, torch.Tensor) and value.numel() == 1)
    return type(value) is type(template)
