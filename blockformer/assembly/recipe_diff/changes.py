"""One difference of two models, and how the same difference in many places is said once."""

from dataclasses import dataclass, replace
from typing import Any

from registry.strict_yaml import dotted
from registry.text import ranges

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes:
        places: where it is found; a place is a dotted path of the recipe, with its layers in words.
        slot: of the block that differs, or that has the key.
        block: the block's name; ``old -> new`` where another block stands in its place.
        key: which of its parameters; empty if the block itself is another.
        old: in words; empty if there was no such block.
        new: likewise.
        note: what a value means here, if more can be said than the two values.
    """

    places: tuple[str, ...]
    slot: str
    block: str
    key: str
    old: str
    new: str
    note: str = ""


@dataclass(frozen=True)
class Found:
    """A difference at one path; inside a stack with the layers in which it was found."""

    change: Change
    stack: Path = ()
    inside: Path = ()
    layers: tuple[int, ...] = ()
    of: int = 0


def together(found: list[Found]) -> list[Change]:
    """Each difference once: first over the layers of a stack, then over all places."""
    return _merged(_once(found))


def _once(found: list[Found]) -> list[Change]:
    """The same difference in several kinds of layers, as one difference in all those layers."""
    merged: dict[tuple[Any, ...], list[Found]] = {}
    for one in found:
        change = replace(one.change, places=())
        merged.setdefault((change, one.stack, one.inside) if one.layers else (one.change,), []).append(one)
    result: list[Change] = []
    for group in merged.values():
        first = group[0]
        if first.layers:
            place = _place(first, sorted(index for one in group for index in one.layers))
            result.append(replace(first.change, places=(place,)))
        else:
            result.append(first.change)
    return result


def _place(found: Found, layers: list[int]) -> str:
    which = "all layers" if len(layers) == found.of else f"layer{'s' * (len(layers) > 1)} {ranges(layers)}"
    return ", ".join(filter(None, (dotted(found.stack), which, dotted(found.inside))))


def _merged(changes: list[Change]) -> list[Change]:
    """The same difference in several places, once."""
    places: dict[Change, list[str]] = {}
    for change in changes:
        places.setdefault(replace(change, places=()), []).extend(change.places)
    return [replace(change, places=tuple(found)) for change, found in places.items()]


def change_at(path: Path, slot: str, block: str, key: str, old: str, new: str) -> Change:
    """A difference in one place; the other arguments are those of :class:`Change`."""
    return Change((dotted(path),), slot, block, key, old, new)
