"""How the layers of a stack are laid out, in few words."""

from collections.abc import Sequence
from itertools import groupby
from typing import cast

from torch import nn

from blocks.base import Component, Stack
from registry import Spec, spec_of


def layers_of(stack: Component) -> list[Component]:
    """The layers of a stack in the order of its list of them; none if it keeps them otherwise."""
    layers = getattr(stack, "layers", None)
    if not isinstance(stack, Stack) or not isinstance(layers, nn.ModuleList):
        return []
    found = [layer for layer in layers if isinstance(layer, Component) and spec_of(layer) is not None]
    return found if len(found) == len(layers) else []


def name_of(owner: Component, item: Component) -> str:
    """The name that the recipe of ``owner`` gives to one of several kinds of blocks in it; empty if it gives none."""
    spec = spec_of(owner)
    paths = [path for path, child in spec.children() if child is spec_of(item)] if spec else []
    return str(paths[0][1]) if paths and len(paths[0]) > 1 else ""


def names_of(stack: Component) -> list[str]:
    """The recipe's name of every layer; empty texts where they are all alike."""
    return [name_of(stack, layer) for layer in layers_of(stack)]


def specs_of(stack: Component) -> "list[Spec[Component]]":
    """What each layer was built from."""
    return [cast("Spec[Component]", spec_of(layer)) for layer in layers_of(stack)]


def layout(names: Sequence[str]) -> str:
    """``dense, then 4 x (3 x local, global)``: what comes first, and the shortest pattern that makes the rest."""
    if not any(names):
        return f"{len(names)} layers, all alike"
    first, period = min(
        ((first, period) for first in range(len(names)) for period in range(1, len(names) - first + 1)
         if _repeats(names[first:], period)),
        key=lambda found: (sum(found), found[0]),
    )  # fmt: skip
    begin, rest = names[:first], names[first:]
    times, left = divmod(len(rest), period)
    unit = _runs(rest[:period])
    pattern = unit if times == 1 else f"{times} x ({unit})" if period > 1 else f"{times} x {unit}"
    parts = [_runs(begin), pattern, _runs(rest[len(rest) - left :])]
    return ", then ".join(part for part in parts if part)


def _repeats(names: Sequence[str], period: int) -> bool:
    return all(name == names[index % period] for index, name in enumerate(names))


def _runs(names: Sequence[str]) -> str:
    runs = [(name, len(list(run))) for name, run in groupby(names)]
    return ", ".join(f"{times} x {name}" if times > 1 else name for name, times in runs)
