"""Sizes of all parameters relative to those at the base width of an init, by the axes that blocks declare."""

from collections.abc import Iterator, Mapping
from typing import cast

from torch import Tensor, nn

from blocks.base.adapter import Adapter
from blocks.base.axes import Axis, Fixed
from blocks.base.component import Component
from blocks.base.slots import Norm
from blocks.base.width import WidthMultipliers

Axes = tuple[Axis | None, ...]


class UndeclaredAxesError(ValueError):
    """Parameters whose axes no block declares; the message is one line."""


def width_multipliers(model: nn.Module) -> dict[str, WidthMultipliers]:
    """The multipliers of every parameter, by name.

    Raises:
        UndeclaredAxesError: blocks do not declare the axes of all parameters.
    """
    declared, modules = declared_axes(model), dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))
    parameters = dict(model.named_parameters())
    if missing := [name for name in parameters if name not in declared]:
        raise UndeclaredAxesError(_undeclared(missing, modules))
    return {name: _multipliers(name, one, declared[name], modules) for name, one in parameters.items()}


def declared_axes(model: nn.Module) -> dict[str, Axes]:
    """The axes of parameters, by name: what blocks declare, and what follows from that.

    An outer block overrides the blocks inside it. A bias has the axes of its weight's outputs, the parameters of a norm
    have its width, and those of an adapter have its projection's inputs and outputs.
    """
    found: dict[str, Axes] = {}
    parameters = dict(model.named_parameters())
    modules = cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
    components = [(prefix, module) for prefix, module in modules if isinstance(module, Component)]
    for prefix, component in components:
        for leaf, axes in component.axes().items():
            found.setdefault(_joined(prefix, leaf), axes)
    for prefix, component in components:
        if isinstance(component, Norm):
            for leaf, parameter in component.named_parameters(recurse=False):
                found.setdefault(_joined(prefix, leaf), (None,) * parameter.ndim)
        elif isinstance(component, Adapter):
            projection = found.get(f"{prefix.rpartition('.')[0]}.weight")
            found |= {} if projection is None else _adapter_axes(prefix, component, projection)
    for name in parameters:
        weight = f"{name.removesuffix('bias')}weight"
        if name.endswith(".bias") and name not in found and weight in found:
            found[name] = found[weight][:-1]
    return {name: axes for name, axes in found.items() if name in parameters}


def is_vector(model: nn.Module, name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a vector or a scalar, or several of them in one tensor: a bias, or a part of a norm."""
    path, _, leaf = name.rpartition(".")
    return parameter.ndim < 2 or leaf == "bias" or isinstance(model.get_submodule(path), Norm)


def _adapter_axes(prefix: str, adapter: Adapter, projection: Axes) -> dict[str, Axes]:
    """An axis that tensor parallelism cuts with the outputs (inputs) of the projection is one of outputs (inputs)."""
    outputs, inputs = adapter.cuts("columns"), adapter.cuts("rows")
    found: dict[str, Axes] = {}
    for leaf, parameter in adapter.named_parameters():
        axes: list[Axis | None] = [Fixed(size) for size in parameter.shape]
        for places, axis in ((outputs, projection[-2]), (inputs, projection[-1])):
            if (place := places[leaf]) is not None:
                axes[place] = axis
        found[f"{prefix}.{leaf}"] = tuple(axes)
    return found


def _multipliers(name: str, parameter: Tensor, axes: Axes, modules: Mapping[str, nn.Module]) -> WidthMultipliers:
    sites = [block.site for _, block in _around(name, modules) if block.site is not None]
    wider = sites[0].width_multiplier if sites else 1.0
    ratios = tuple(wider if axis is None or axis.grows else 1.0 for axis in axes)
    if is_vector(modules[""], name, parameter):
        return WidthMultipliers(ratios, 1.0, ratios[-1] if ratios else 1.0)
    if isinstance(modules[name.rpartition(".")[0]], nn.Embedding):
        return WidthMultipliers(ratios, *ratios)
    return WidthMultipliers(ratios, ratios[-1], ratios[-2])


def _undeclared(names: list[str], modules: Mapping[str, nn.Module]) -> str:
    block = next(_around(names[0], modules))[1]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"no block declares the axes of {names[0]}{more}; name them in {type(block).__name__}.axes(), with None for "
        "an axis that grows with the model's width and Fixed for one that does not"
    )


def _around(name: str, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Component]]:
    """The blocks around a parameter, from the inside."""
    while name:
        name = name.rpartition(".")[0]
        if isinstance(block := modules[name], Component):
            yield name, block


def _joined(prefix: str, leaf: str) -> str:
    return f"{prefix}.{leaf}" if prefix else leaf
