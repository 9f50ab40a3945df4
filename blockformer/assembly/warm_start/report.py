"""What a warm start did with every parameter, for people and for machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from registry.text import ranges

Kind = Literal["carried", "adapted", "fresh", "left"]
KINDS: tuple[Kind, ...] = ("carried", "adapted", "fresh", "left")


@dataclass(frozen=True)
class Fate:
    """What became of one parameter.

    Attributes:
        name: in the new model; of what was left behind, in the old.
        kind: ``carried`` bit for bit, ``adapted`` to another shape or place, ``fresh`` as in a cold start, or ``left``
            behind in the old model.
        size: numbers in it.
        words: how or why, where that is not clear.
        origin: name in the old model, of what comes from there.
    """

    name: str
    kind: Kind
    size: int
    words: str = ""
    origin: str | None = None


@dataclass(frozen=True)
class Row:
    """Parameters that shared a fate, under one name: ``decoder.layers.{0..5}.mixer.{k, v}``."""

    name: str
    kind: Kind
    size: int
    words: str


@dataclass(frozen=True)
class Report:
    """The fates of all parameters of a new model, each once, and of the old model's that found no place."""

    fates: tuple[Fate, ...]

    def size(self, kind: Kind) -> int:
        """Numbers in all parameters with this fate."""
        return sum(fate.size for fate in self.fates if fate.kind == kind)

    @property
    def sizes(self) -> dict[Kind, int]:
        """Numbers by fate."""
        return {kind: self.size(kind) for kind in KINDS}

    @property
    def rows(self) -> list[Row]:
        """All fates, as few rows as tell them."""
        here = [fate.name for fate in self.fates if fate.kind != "left"]
        there = [fate.origin or fate.name for fate in self.fates if fate.origin or fate.kind == "left"]
        return [
            row
            for kind in KINDS
            for row in _rows([fate for fate in self.fates if fate.kind == kind], there if kind == "left" else here)
        ]

    def dump(self) -> dict[str, Any]:
        """As JSON values."""
        rows = [{"name": row.name, "fate": row.kind, "size": row.size, "words": row.words} for row in self.rows]
        return {"sizes": dict(self.sizes), "parameters": rows}

    def lines(self) -> list[str]:
        """A table."""
        rows = self.rows
        name = max((len(row.name) for row in rows if row.words), default=0)
        size = max(len(f"{row.size:,}") for row in rows)
        return [f"  {row.kind:<8}{row.size:>{size},}  {row.name:<{name}}  {row.words}".rstrip() for row in rows]


def _rows(fates: Sequence[Fate], names: Sequence[str]) -> list[Row]:
    """Whole blocks under their name, then layers together, then neighbours together.

    Args:
        fates: of one kind.
        names: all that the model has.
    """
    sizes: dict[tuple[str, str], int] = {}  # by name and words
    for fate in fates:
        key = _block(fate, fates, names), fate.words
        sizes[key] = sizes.get(key, 0) + fate.size
    joined = _together(_over_layers(sizes))
    return [Row(name, fates[0].kind, size, words) for (name, words), size in joined.items()]


def _block(fate: Fate, fates: Sequence[Fate], names: Sequence[str]) -> str:
    """The name of the largest block around a parameter all of which has the same fate."""
    same = {one.name for one in fates if one.words == fate.words}
    best, parts = fate.name, fate.name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        block = ".".join(parts[:end])
        if any(name.startswith(f"{block}.") and name not in same for name in names):
            break
        best = block
    return best


def _over_layers(rows: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Join rows whose names differ in their first number alone."""
    joined: dict[tuple[str, str, str], tuple[list[int], int]] = {}
    for (name, words), size in rows.items():
        parts = name.split(".")
        place = next((index for index, part in enumerate(parts) if part.isdigit()), len(parts))
        before, after = ".".join(parts[:place]), ".".join(parts[place + 1 :])
        numbers, sum_ = joined.get((before, after, words), ([], 0))
        joined[before, after, words] = [*numbers, *(int(part) for part in parts[place : place + 1])], sum_ + size
    return {
        (".".join(part for part in (before, _numbers(numbers), after) if part), words): size
        for (before, after, words), (numbers, size) in joined.items()
    }


def _numbers(numbers: Sequence[int]) -> str:
    """0, 1, 2, 5 as {0..2, 5}."""
    text = ranges(numbers, "..")
    return f"{{{text}}}" if len(numbers) > 1 else text


def _together(rows: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Join rows whose names differ in their last part alone."""
    joined: dict[tuple[str, str], tuple[list[str], int]] = {}
    for (name, words), size in rows.items():
        parent, _, leaf = name.rpartition(".")
        if leaf.endswith("}"):
            parent, leaf = "", name
        leaves, sum_ = joined.get((parent, words), ([], 0))
        joined[parent, words] = [*leaves, leaf], sum_ + size
    return {(_named(parent, leaves), words): size for (parent, words), (leaves, size) in joined.items()}


def _named(parent: str, leaves: Sequence[str]) -> str:
    if not parent:
        return ", ".join(leaves)
    return f"{parent}.{leaves[0]}" if len(leaves) == 1 else f"{parent}.{{{', '.join(leaves)}}}"
