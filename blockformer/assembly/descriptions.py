"""One-line descriptions of blocks: their settings, and the layout of a stack's layers."""

from collections.abc import Sequence
from itertools import groupby
from typing import cast

from torch import nn

from blocks.base import Component, Stack
from registry import Spec, spec_of
from registry.text import as_yaml


def settings(spec: Spec | None) -> str:
    """Parameters as ``heads 8, window 256``, without falsy values, default words, child blocks and backends."""
    if spec is None:
        return ""
    known = spec.entry.parameters
    own = (
        (known[key], value) for key, value in spec.params if value and not known[key].slot and not known[key].runtime
    )
    return ", ".join(
        f"{p.name} {as_yaml(value)}" for p, value in own if value != p.default or not isinstance(value, str)
    )


def with_settings(spec: Spec) -> str:
    """A block's name, followed by its settings in brackets if there are any."""
    values = settings(spec)
    return f"{spec.entry.name} ({values})" if values else spec.entry.name


def layers_of(stack: Component) -> list[Component]:
    """The layers of a stack in order; empty unless its ``layers`` is a ModuleList of blocks built from recipes."""
    layers = getattr(stack, "layers", None)
    if not isinstance(stack, Stack) or not isinstance(layers, nn.ModuleList):
        return []
    found = [layer for layer in layers if isinstance(layer, Component) and spec_of(layer) is not None]
    return found if len(found) == len(layers) else []


def name_of(owner: Component, item: Component) -> str:
    """The name of the kind of block ``item`` in the recipe of ``owner``, such as ``local``; empty if it has none."""
    spec = spec_of(owner)
    paths = [path for path, child in spec.children() if child is spec_of(item)] if spec else []
    return str(paths[0][1]) if paths and len(paths[0]) > 1 else ""


def names_of(stack: Component) -> list[str]:
    """The recipe's name of every layer; empty strings if the recipe has a single kind of layer."""
    return [name_of(stack, layer) for layer in layers_of(stack)]


def specs_of(stack: Component) -> "list[Spec[Component]]":
    """The Spec of each layer."""
    return [cast("Spec[Component]", spec_of(layer)) for layer in layers_of(stack)]


def layout(names: Sequence[str]) -> str:
    """``dense, then 4 x (3 x local, global)``: the first layers, then the shortest pattern that gives the rest."""
    if not any(names):
        return f"{len(names)} layers, all alike"
    first, period = min(enumerate(shortest_periods(names)), key=lambda found: (sum(found), found[0]))
    begin, rest = names[:first], names[first:]
    times, left = divmod(len(rest), period)
    unit = _runs(rest[:period])
    pattern = unit if times == 1 else f"{times} x ({unit})" if period > 1 else f"{times} x {unit}"
    parts = [_runs(begin), pattern, _runs(rest[len(rest) - left :])]
    return ", then ".join(part for part in parts if part)


def shortest_periods(names: Sequence[str]) -> list[int]:
    """For each index, how many names from there on have to be repeated to give the rest, the last time cut if need be.

    The rest has the period n - b if its first b names are its last ones: the prefix function of Knuth, Morris and
    Pratt, from the end, in linear time.
    """
    reverse, border = names[::-1], [0]
    for name in reverse[1:]:
        length = border[-1]
        while length and name != reverse[length]:
            length = border[length - 1]
        border.append(length + (name == reverse[length]))
    return [count + 1 - border[count] for count in range(len(names))][::-1]


def _runs(names: Sequence[str]) -> str:
    runs = [(name, len(list(run))) for name, run in groupby(names)]
    return ", ".join(f"{times} x {name}" if times > 1 else name for name, times in runs)
