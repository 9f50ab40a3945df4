"""The report of a warm start: the source of each parameter, as a table or JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from registry.text import ranges

Kind = Literal["carried", "adapted", "fresh", "left"]
KINDS: tuple[Kind, ...] = ("carried", "adapted", "fresh", "left")


@dataclass(frozen=True)
class ParameterReport:
    """What a warm start did with one parameter.

    Attributes:
        name: name in the new model; for ``left``, in the old model.
        kind: ``carried``: copied bit for bit; ``adapted``: resized, or taken from a parameter with another meaning;
            ``fresh``: initialised as in a cold start; ``left``: a parameter of the old model that was not used.
        size: number of elements.
        words: how it was adapted or why it is fresh; empty where that is clear.
        origin: name of the source in the old model, if there is one.
    """

    name: str
    kind: Kind
    size: int
    words: str = ""
    origin: str | None = None


@dataclass(frozen=True)
class Row:
    """Parameters of the same kind, with the same words, under one name: ``decoder.layers.{0..5}.mixer.{k, v}``."""

    name: str
    kind: Kind
    size: int
    words: str


@dataclass(frozen=True)
class WarmStartReport:
    """All parameters of the new model, each once, and those of the old model that were not used."""

    parameters: tuple[ParameterReport, ...]

    def size(self, kind: Kind) -> int:
        """Total number of elements of this kind."""
        return sum(parameter.size for parameter in self.parameters if parameter.kind == kind)

    @property
    def sizes(self) -> dict[Kind, int]:
        """Total number of elements of each kind."""
        return {kind: self.size(kind) for kind in KINDS}

    @property
    def rows(self) -> list[Row]:
        """All parameters, grouped into as few rows as possible."""
        here = [parameter.name for parameter in self.parameters if parameter.kind != "left"]
        there = [one.origin or one.name for one in self.parameters if one.origin or one.kind == "left"]
        rows: list[Row] = []
        for kind in KINDS:
            same = [parameter for parameter in self.parameters if parameter.kind == kind]
            rows += _rows(same, there if kind == "left" else here)
        return rows

    def dump(self) -> dict[str, Any]:
        """The report as JSON values."""
        rows = [{"name": row.name, "kind": row.kind, "size": row.size, "words": row.words} for row in self.rows]
        return {"sizes": dict(self.sizes), "parameters": rows}

    def lines(self) -> list[str]:
        """The lines of a table."""
        rows = self.rows
        name = max((len(row.name) for row in rows if row.words), default=0)
        size = max(len(f"{row.size:,}") for row in rows)
        return [f"  {row.kind:<8}{row.size:>{size},}  {row.name:<{name}}  {row.words}".rstrip() for row in rows]


def _rows(parameters: Sequence[ParameterReport], names: Sequence[str]) -> list[Row]:
    """Group whole blocks, then equal names in several layers, then neighbours.

    Args:
        parameters: all of one kind.
        names: names of all parameters of that model.
    """
    sizes: dict[tuple[str, str], int] = {}  # by name and words
    for parameter in parameters:
        key = _block(parameter, parameters, names), parameter.words
        sizes[key] = sizes.get(key, 0) + parameter.size
    joined = _together(_over_layers(sizes))
    return [Row(name, parameters[0].kind, size, words) for (name, words), size in joined.items()]


def _block(parameter: ParameterReport, parameters: Sequence[ParameterReport], names: Sequence[str]) -> str:
    """The name of the largest block around a parameter in which all parameters have its kind and words."""
    same = {one.name for one in parameters if one.words == parameter.words}
    best, parts = parameter.name, parameter.name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        block = ".".join(parts[:end])
        if any(name.startswith(f"{block}.") and name not in same for name in names):
            break
        best = block
    return best


def _over_layers(rows: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Join rows whose names differ only in their first number."""
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
    """{0..2, 5} for 0, 1, 2, 5."""
    text = ranges(numbers, "..")
    return f"{{{text}}}" if len(numbers) > 1 else text


def _together(rows: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Join rows whose names differ only in their last part."""
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
