"""The keys of a config while they are being found."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

Path = tuple[str, ...]
TRAINING = frozenset({"dropout", "init", "balance_loss"})  # of a recipe: what matters only while a model is trained


class ConflictError(Exception):
    """A template cannot give a value, or a key would have two; ``instead`` is what it gives, where that is known."""

    def __init__(self, message: str, instead: Any = None) -> None:
        super().__init__(message)
        self.instead = instead


@dataclass(frozen=True)
class Around:
    """What names mean in a template.

    Attributes:
        known: names with a value, such as ``layer``.
        meant: parameters of a function of the family, each an expression with its own surroundings.
        inside: templates around; inside its own template, a name is the config's key.
    """

    known: Mapping[str, Any] = field(default_factory=dict[str, Any])
    meant: Mapping[str, "tuple[ast.expr, Around]"] = field(default_factory=dict[str, "tuple[ast.expr, Around]"])
    inside: tuple[str, ...] = ()


class Keys:
    """Values of keys, some inside a mapping; a value that is only a guess gives way to one that is not."""

    def __init__(self) -> None:
        self.found: dict[Path, Any] = {}
        self.guessed: dict[Path, Any] = {}

    def find(self, path: Path, value: Any) -> None:
        """Note that a key has a value.

        Raises:
            ConflictError: it has another.
        """
        if path in self.found and not alike(self.found[path], value):
            raise ConflictError(f"{'.'.join(path)} would be {self.found[path]} and {value}")
        self.found[path] = value

    def guess(self, path: Path, value: Any) -> None:
        """Note a value for a key of which nothing better is known."""
        self.guessed.setdefault(path, value)

    def copy(self) -> "Keys":
        """The same, to come back to."""
        keys = Keys()
        keys.found, keys.guessed = dict(self.found), dict(self.guessed)
        return keys

    def config(self, *, guesses: bool = False) -> dict[str, Any]:
        """All that was found as a config."""
        config: dict[str, Any] = {}
        for path, value in ({**self.guessed, **self.found} if guesses else self.found).items():
            *parents, key = path
            inner = config
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[key] = value
        return config


def alike(said: Any, value: Any) -> bool:
    """Whether what a family says of a block is true of its canonical form, which says more; 1 is 1.0 but not true."""
    if isinstance(said, str) and isinstance(value, Mapping):
        return said == cast("Mapping[str, Any]", value).get("type")
    if isinstance(said, Mapping) and isinstance(value, Mapping):
        given = cast("Mapping[str, Any]", value)
        return all(alike(part, given.get(key)) for key, part in cast("Mapping[str, Any]", said).items())
    if isinstance(said, list | tuple) and isinstance(value, list | tuple):
        parts, values = cast("list[Any]", said), cast("list[Any]", value)
        return len(parts) == len(values) and all(map(alike, parts, values))
    return isinstance(said, bool) == isinstance(value, bool) and said == value
