"""Initialise a model from a trained model with another recipe."""

import copy
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from blockformer.assembly.loading import load
from blockformer.assembly.merging import merge
from blockformer.assembly.warm_start.name_map import Match, joined, matches, new_layers
from blockformer.assembly.warm_start.report import ParameterReport, WarmStartReport
from blockformer.assembly.warm_start.resize import Resizer
from blocks.base import Adapter, Component, FeedForward, Layer, Lookup, Mixer
from blocks.models.base import Model
from registry import entry_of, spec_of


class WarmStartError(ValueError):
    """The trained model has no parameter that the new one can use; the message is one line."""


@torch.no_grad()
def warm_start(model: Model, source: str | Path | Model, *, tokens: Sequence[int] | None = None) -> WarmStartReport:
    """Initialise ``model`` in place from the weights of a trained model, which may have another recipe.

    Parameters with the same name and shape are copied; others are resized along the axes that their blocks declare (see
    :mod:`blocks.base.axes`); the rest keep their current values. New layers start as the identity where their block
    supports it: the output of their sublayers is 0 at first (Gesmundo & Maile, 2023, arXiv:2308.06103). Adapters of the
    trained model are copied if ``model`` has the same ones, and otherwise folded into the weights
    (:func:`assembly.merge`).

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
    merged: list[str] = []
    if not _adapters_carry(model, old):
        old = copy.deepcopy(old)
        merged = merge(old)
    resizer = Resizer(model, old, None if tokens is None else torch.tensor(tokens))
    values, parameters = _values(matches(model, old), model, old, resizer, {f"{name}.weight" for name in merged})
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
    found: Mapping[str, Match], model: Model, old: Model, resizer: Resizer, merged: Set[str]
) -> tuple[dict[str, Tensor], list[ParameterReport]]:
    """The values to copy into the new model, and a report for each of its parameters."""
    values: dict[str, Tensor] = {}
    parameters: list[ParameterReport] = []
    for name, match in found.items():
        size = model.get_parameter(name).numel()
        made = None if match.old is None else resizer.adapted(name, match.old)
        if made is None or match.old is None:
            parameters.append(ParameterReport(name, "fresh", size, _why(name, match, model, old)))
            continue
        values[name], words = made
        words = "; ".join(part for part in ("its adapter is folded in" if match.old in merged else "", words) if part)
        said = "; ".join(part for part in (words, match.words, _other_block(name, match.old, model, old)) if part)
        kind = "adapted" if words or match.elsewhere else "carried"
        parameters.append(ParameterReport(name, kind, size, said, match.old))
    return values, parameters


def _adapters_carry(model: Model, old: Model) -> bool:
    """Whether every adapter of the trained model has an equal one of the same name and shape in the new model."""
    here = model.projections
    pairs = [(one.adapter, here[name].adapter if name in here else None) for name, one in old.projections.items()]
    return all(now is not None and _are_alike(before, now) for before, now in pairs if before is not None)


def _are_alike(one: Adapter, other: Adapter) -> bool:
    specs, shapes = (spec_of(one), spec_of(other)), [[p.shape for p in a.parameters()] for a in (one, other)]
    if specs[0] is None or specs[1] is None:  # constructed by hand, with settings that are not known
        return False
    return specs[0].identity() == specs[1].identity() and shapes[0] == shapes[1]


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


def _silent_at_zero(named: tuple[str, Component]) -> bool:
    """Whether a named block adds nothing to the stream when its ``outputs`` are 0."""
    _, block = named
    return block.is_noop or block.zero_at_zero or not isinstance(block, Mixer | FeedForward | Lookup)


def _zeroed(model: Model, old: Model) -> set[str]:
    """Parameters of new layers that are set to 0 so that these layers start as the identity."""
    components = dict(model.components())
    names: set[str] = set()
    for prefix in new_layers(model, old):
        layer = components.get(prefix)
        if isinstance(layer, Layer) and layer.identity_at_zero and all(map(_silent_at_zero, layer.components())):
            names |= {
                joined(prefix, joined(inner, joined(output, leaf)))
                for inner, block in layer.components()
                for output in block.outputs
                for leaf, _ in getattr(block, output).named_parameters()
                if not leaf.startswith("adapter.")  # which outputs 0, and with A at 0 could not learn
            }
    return names
