"""Errors of recipes and of registration; a recipe error has one line for each problem."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from registry.text import as_yaml, shortened

MOST_PROBLEMS = 50  # lines of one error
_LONGEST_NAME = 100  # of a name for which a similar one is searched
_SHORTEST_BEGINNING = 3  # of a name


class RegistrationError(TypeError):
    """A block breaks the constructor contract; raised when its module is imported."""


class ParameterError(ValueError):
    """A parameter of a block does not fit its surroundings.

    Args:
        path: its key path from the block, so that the error of a recipe names the line where it was written.
        message: what is wrong, and what to do.
    """

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class Mark:
    """Where a value was written: a file and a line counted from 1, or a command-line override (no line)."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        source = shortened(self.source)
        return source if self.line is None else f"{source}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One thing wrong: where it was written, the key's dotted path (may be empty), and what to do about it."""

    mark: Mark
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.mark), shortened(self.path), shortened(self.message, 1000)) if part)


class RecipeError(ValueError):
    """A recipe cannot be used.

    ``str()`` has a line for each of the first problems, and the number of the others.

    Args:
        problems: what is wrong; ``problems`` has them without repetitions.
        more: number of further problems, which were not put into words.
    """

    def __init__(self, problems: Iterable[Problem], more: int = 0) -> None:
        self.problems, self.more = tuple(dict.fromkeys(problems)), more
        lines = list(map(str, self.problems[:MOST_PROBLEMS]))
        if others := len(self.problems) - len(lines) + more:
            lines.append(f"and {others:,} more {'problem' if others == 1 else 'problems'}")
        super().__init__("\n".join(lines))


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the known name that ``name`` begins, or else is most like; or nothing."""
    if len(name) > _LONGEST_NAME:
        return ""
    names = list(known)
    begun = [other for other in names if other.startswith(name)] if len(name) >= _SHORTEST_BEGINNING else []
    close = get_close_matches(name, begun, n=1, cutoff=0.0) or get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def quoted(value: Any) -> str:
    """A wrong value as the user wrote it, cut short if it is long."""
    odd = isinstance(value, float) and not math.isfinite(value)
    text = as_yaml(value) if odd else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:36]} ..."
