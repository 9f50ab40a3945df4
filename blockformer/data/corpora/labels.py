"""The labels of a table: names of classes, which get numbers, or scores, which are numbers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from blockformer.errors import DataError
from registry.text import shortened


class Labels(ABC):
    """The column of labels of a table, which is read twice: for its names, and for its numbers.

    Args:
        column: The name of the column.
    """

    def __init__(self, column: str) -> None:
        self.column = column

    @property
    @abstractmethod
    def key(self) -> dict[str, Any]:
        """What decides the numbers beside the files; JSON values."""

    @abstractmethod
    def see(self, text: str, where: str, *, trained: bool) -> None:
        """Read a label for the first time; those of the training files come first.

        Raises:
            DataError: It is none; the message has its place.
        """

    @abstractmethod
    def number(self, text: str) -> float:
        """The number of a label that was seen."""

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """Facts to log, when all labels were seen."""


class ClassNames(Labels):
    """Names of classes. Classes are numbered in the order of their names.

    Args:
        column: The name of the column.
        names: The classes in the order of their numbers; None: all labels of the training files, sorted.
    """

    def __init__(self, column: str, names: Sequence[str] | None = None) -> None:
        super().__init__(column)
        self._given, self._names = names is not None, sorted({*names}) if names is not None else list[str]()
        if names is not None and (list(names) != self._names or len(names) < 2):
            raise DataError(f"data.classes: name two or more classes, each once and sorted, not {_listed(names)}")
        self._seen, self._numbers = {*self._names}, dict[str, int]()

    @property
    def key(self) -> dict[str, Any]:
        return {"label": self.column, "classes": self._names if self._given else None}

    def see(self, text: str, where: str, *, trained: bool) -> None:
        name = text.strip()
        if not name:
            raise DataError(f"{where}: {self.column} is empty; each text needs a label")
        if name in self._seen:
            return
        if self._given or not trained:
            of = "data.classes" if self._given else "data.files"
            raise DataError(
                f"{where}: {self.column} {shortened(name, 40)!r} is none of the {len(self._seen)} classes of {of} "
                f"({_listed(sorted(self._seen))}); correct the row or leave it out"
            )
        self._seen.add(name)

    def number(self, text: str) -> float:
        if not self._numbers:
            self._numbers = {name: number for number, name in enumerate(sorted(self._seen))}
        return float(self._numbers[text.strip()])

    def facts(self) -> dict[str, Any]:
        return {"classes": sorted(self._seen)}


class Scores(Labels):
    """Finite numbers."""

    @property
    def key(self) -> dict[str, Any]:
        return {"score": self.column}

    def see(self, text: str, where: str, *, trained: bool) -> None:
        try:
            finite = math.isfinite(self.number(text))
        except ValueError:
            finite = False
        if not finite:
            raise DataError(f"{where}: {self.column} must be a number, not {shortened(text, 40)!r}")

    def number(self, text: str) -> float:
        return float(text)

    def facts(self) -> dict[str, Any]:
        return {}


def _listed(names: Sequence[str]) -> str:
    shown = [shortened(name, 40) for name in names[:8]]
    return ", ".join([*shown, *(["..."] if len(names) > len(shown) else [])]) or "none"
