"""Initialise a model from a trained model with another recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from blockformer.assembly.loading import load
from blockformer.assembly.warm_start.name_map import Match, joined, matches, new_layers
from blockformer.assembly.warm_start.report import ParameterReport, WarmStartReport
from blockformer.assembly.warm_start.resize import Adapter
from blocks.base import Component, Layer
from blocks.models.base import Model
from registry import entry_of


class WarmStartError(ValueError):
    """The trained model has no parameter that the new one can use; the message is one line."""


@torch.no_grad()
def warm_start(model: Model, source: str | Path | Model, *, tokens: Sequence[int] | None = None) -> WarmStartReport:
    """Initialise ``model`` in place from the weights of a trained model, which may have another recipe.

    Parameters with the same name and shape are copied; others are resized along the axes that their blocks declare (see
    :mod:`blocks.base.axes`); the rest keep their current values. New layers start as the identity where their block
    supports it: the output of their sublayers is 0 at first (Gesmundo & Maile, 2023, arXiv:2308.06103).

    Args:
        model: the new model, with initial values; changed in place.
        source: the trained model, or a path for :func:`assembly.load`.
        tokens: for each new token id the old id of the same token, -1 for a new token; ids past the end are new.
            None: ids mean the same in both models.

    Returns:
        The source of every parameter.

    Raises:
        WarmStartError: no parameter can be taken over; ``model`` is unchanged.
        LoadError, RecipeError: as for :func:`assembly.load`.
    """
    old = source if isinstance(source, Model) else load(source)
    adapter = Adapter(model, old, None if tokens is None else torch.tensor(tokens))
    values, parameters = _values(matches(model, old), model, old, adapter)
    if not values:
        raise WarmStartError(
            f"nothing carries over: no parameter of the trained {old.kind} model fits one of this {model.kind} model"
        )
    zeroed = _zeroed(model, old)
    for name, value in (values | {name: torch.zeros(()) for name in zeroed}).items():
        model.get_parameter(name).copy_(value)
    identity = {"kind": "adapted", "words": "0: the new layer begins as the identity"}
    here = [replace(parameter, **identity) if parameter.name in zeroed else parameter for parameter in parameters]
    used = {parameter.origin for parameter in here}
    left = [ParameterReport(name, "left", one.numel()) for name, one in old.named_parameters() if name not in used]
    return WarmStartReport((*here, *left))


def _values(
    found: Mapping[str, Match], model: Model, old: Model, adapter: Adapter
) -> tuple[dict[str, Tensor], list[ParameterReport]]:
    """The values to copy into the new model, and a report for each of its parameters."""
    values: dict[str, Tensor] = {}
    parameters: list[ParameterReport] = []
    for name, match in found.items():
        size = model.get_parameter(name).numel()
        made = None if match.old is None else adapter.adapted(name, match.old)
        if made is None or match.old is None:
            parameters.append(ParameterReport(name, "fresh", size, _why(name, match, model, old)))
            continue
        values[name], words = made
        said = "; ".join(part for part in (words, match.words, _other_block(name, match.old, model, old)) if part)
        kind = "adapted" if words or match.elsewhere else "carried"
        parameters.append(ParameterReport(name, kind, size, said, match.old))
    return values, parameters


def _why(name: str, match: Match, model: Model, old: Model) -> str:
    """Why a parameter keeps its initial value."""
    if match.old is not None:
        here, there = model.get_parameter(name).shape, old.get_parameter(match.old).shape
        return f"{_shape(there)} there, {_shape(here)} here"
    zero = match.words == "a new bias" and not bool(model.get_parameter(name).any())
    return f"{match.words}, which begins at 0" if zero else match.words


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _other_block(name: str, origin: str, model: Model, old: Model) -> str:
    """``norm was layer, is rms``, if the block around a parameter changed; otherwise empty."""
    here, there = _owner(name, model), _owner(origin, old)
    if type(here) is type(there) or here.slot != there.slot:
        return ""
    return f"{here.slot.name} was {entry_of(type(there)).name}, is {entry_of(type(here)).name}"


def _owner(name: str, model: Model) -> Component:
    components = dict(model.components())
    while name not in components:
        name = name.rpartition(".")[0]
    return components[name]


def _zeroed(model: Model, old: Model) -> set[str]:
    """Parameters of new layers that are set to 0 so that these layers start as the identity."""
    components = dict(model.components())
    names: set[str] = set()
    for prefix in new_layers(model, old):
        layer = components.get(prefix)
        if isinstance(layer, Layer) and layer.identity_at_zero:
            names |= {
                joined(prefix, joined(inner, joined(output, leaf)))
                for inner, block in layer.components()
                for output in block.outputs
                for leaf, _ in getattr(block, output).named_parameters()
            }
    return names
