"""Let a model begin with what a trained one has learned."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from blockformer.assembly.loading import load
from blockformer.assembly.warm_start.name_map import Match, joined, matches, new_layers
from blockformer.assembly.warm_start.report import Fate, Report
from blockformer.assembly.warm_start.resize import Adapter
from blocks.base import Component, Layer
from blocks.models.base import Model
from registry import entry_of


class WarmStartError(ValueError):
    """Nothing can be taken over; the message is one line."""


@torch.no_grad()
def warm_start(model: Model, source: str | Path | Model, *, tokens: Sequence[int] | None = None) -> Report:
    """Give ``model`` the weights of a trained one, whatever of its recipe is different.

    Parameters of the same name and shape are carried over; others are adapted as their blocks say (see
    :mod:`blocks.base.axes`); what is left keeps the value that it has. New layers begin as the identity where their
    block can be one: what their sublayers give is 0 at first (Gesmundo & Maile, 2023, arXiv:2308.06103).

    Args:
        model: the new model, with the values of a cold start; changed in place.
        source: the trained model, or where :func:`assembly.load` finds it.
        tokens: the old id of new token 0, 1, ..., -1 if it is new, as those past the end; None: ids mean the same.

    Returns:
        What became of every parameter.

    Raises:
        WarmStartError: the models have nothing in common; ``model`` is as it was.
        LoadError, RecipeError: as for :func:`assembly.load`.
    """
    old = source if isinstance(source, Model) else load(source)
    adapter = Adapter(model, old, None if tokens is None else torch.tensor(tokens))
    values, fates = _values(matches(model, old), model, old, adapter)
    if not values:
        raise WarmStartError(
            f"nothing carries over: the trained {old.kind} model has no parameter that this {model.kind} model could "
            "begin with"
        )
    silenced = _silenced(model, old)
    for name, value in (values | {name: torch.zeros(()) for name in silenced}).items():
        model.get_parameter(name).copy_(value)
    identity = {"kind": "adapted", "words": "0: the new layer begins as the identity"}
    here = [replace(fate, **identity) if fate.name in silenced else fate for fate in fates]
    used = {fate.origin for fate in here}
    left = [Fate(name, "left", one.numel()) for name, one in old.named_parameters() if name not in used]
    return Report((*here, *left))


def _values(
    found: Mapping[str, Match], model: Model, old: Model, adapter: Adapter
) -> tuple[dict[str, Tensor], list[Fate]]:
    """What is taken over, and what became of each parameter."""
    values: dict[str, Tensor] = {}
    fates: list[Fate] = []
    for name, match in found.items():
        size = model.get_parameter(name).numel()
        made = None if match.old is None else adapter.adapted(name, match.old)
        if made is None or match.old is None:
            fates.append(Fate(name, "fresh", size, _why(name, match, model, old)))
            continue
        values[name], words = made
        said = "; ".join(part for part in (words, match.words, _other_block(name, match.old, model, old)) if part)
        kind = "adapted" if words or match.elsewhere else "carried"
        fates.append(Fate(name, kind, size, said, match.old))
    return values, fates


def _why(name: str, match: Match, model: Model, old: Model) -> str:
    """Why a parameter keeps the value of a cold start."""
    if match.old is not None:
        here, there = model.get_parameter(name).shape, old.get_parameter(match.old).shape
        return f"{_shape(there)} there, {_shape(here)} here"
    zero = match.words == "a new bias" and not bool(model.get_parameter(name).any())
    return f"{match.words}, which begins at 0" if zero else match.words


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _other_block(name: str, origin: str, model: Model, old: Model) -> str:
    """Whether the block around a parameter is another than it was, as a recipe calls them."""
    here, there = _owner(name, model), _owner(origin, old)
    if type(here) is type(there) or here.slot != there.slot:
        return ""
    return f"{here.slot.name} was {entry_of(type(there)).name}, is {entry_of(type(here)).name}"


def _owner(name: str, model: Model) -> Component:
    components = dict(model.components())
    while name not in components:
        name = name.rpartition(".")[0]
    return components[name]


def _silenced(model: Model, old: Model) -> set[str]:
    """Parameters that are 0 in new layers, so that these change nothing at first."""
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
