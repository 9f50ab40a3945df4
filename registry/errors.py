"""What is wrong with a recipe: every problem on a line of its own."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


class RegistrationError(TypeError):
    """A block breaks the constructor contract; raised when its module is imported."""


@dataclass(frozen=True)
class Mark:
    """Where a value was written: a file and a line counted from 1, or a command-line override (no line)."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One thing wrong: where it was written, the key's dotted path (may be empty), and what to do about it."""

    mark: Mark
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.mark), self.path, self.message) if part)


class RecipeError(ValueError):
    """A recipe cannot be used. ``str()`` has one line for each problem; ``problems`` has the objects."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the known name most like ``name``, or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def quoted(value: Any) -> str:
    """A wrong value as the user wrote it, cut short if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:36]} ..."
