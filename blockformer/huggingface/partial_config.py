"""A config whose keys are found one after the other."""

from collections.abc import Mapping
from typing import Any, cast


class ConflictError(Exception):
    """No config has the wanted value.

    Args:
        message: the reason.
        found: the value that the family gives instead, if it is known.
    """

    def __init__(self, message: str, found: Any = None) -> None:
        super().__init__(message)
        self.found = found


class PartialConfig:
    """Values of config keys, some inside a mapping; a guessed value is used where no certain one is known."""

    def __init__(self) -> None:
        self.certain: dict[tuple[str, ...], Any] = {}
        self.guessed: dict[tuple[str, ...], Any] = {}

    def assign(self, path: tuple[str, ...], value: Any) -> None:
        """Assign a value to a key.

        Raises:
            ConflictError: the key already has another value.
        """
        if path in self.certain and not matches(self.certain[path], value):
            raise ConflictError(f"{'.'.join(path)} would have to be both {self.certain[path]} and {value}")
        self.certain[path] = value

    def guess(self, path: tuple[str, ...], value: Any) -> None:
        """Assign a value that holds until a certain one is known."""
        self.guessed.setdefault(path, value)

    def copy(self) -> "PartialConfig":
        """A copy, to return to if an attempt fails."""
        keys = PartialConfig()
        keys.certain, keys.guessed = dict(self.certain), dict(self.guessed)
        return keys

    def config(self, *, guesses: bool = False) -> dict[str, Any]:
        """The keys as a nested mapping, with or without guessed values."""
        config: dict[str, Any] = {}
        for path, value in ({**self.guessed, **self.certain} if guesses else self.certain).items():
            *parents, key = path
            inner = config
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[key] = value
        return config


def matches(expected: Any, value: Any) -> bool:
    """Whether the canonical form of a recipe has a value that a family gives.

    The canonical form also has keys and defaults that the family does not mention. 1 equals 1.0, but not true.
    """
    if isinstance(expected, str) and isinstance(value, Mapping):
        return expected == cast("Mapping[str, Any]", value).get("type")
    if isinstance(expected, Mapping) and isinstance(value, Mapping):
        given = cast("Mapping[str, Any]", value)
        return all(matches(part, given.get(key)) for key, part in cast("Mapping[str, Any]", expected).items())
    if isinstance(expected, list | tuple) and isinstance(value, list | tuple):
        parts, values = cast("list[Any]", expected), cast("list[Any]", value)
        return len(parts) == len(values) and all(map(matches, parts, values))
    return isinstance(expected, bool) == isinstance(value, bool) and expected == value
