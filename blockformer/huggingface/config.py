"""A config.json that remembers which of its keys were read."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from blockformer.huggingface.errors import InterchangeError


class Config(Mapping[str, Any]):
    """A mapping of a config, at the top or inside, that notes every key that is asked for.

    Args:
        values: what it holds.
        paths: the dotted path of every key in the file; None: the keys themselves.
        read: collects the paths that were asked for; shared by all that came out of one file.
    """

    def __init__(
        self, values: Mapping[str, Any], paths: Mapping[str, str] | None = None, read: set[str] | None = None
    ) -> None:
        self._values = dict(values)
        self._paths = dict(paths) if paths is not None else {key: key for key in values}
        self.read: set[str] = set() if read is None else read

    def __getitem__(self, key: str) -> Any:
        value, path = self._values[key], self._paths.get(key)
        if path is not None:
            self.read.add(path)
        if path is not None and isinstance(value, dict):
            inner = cast("dict[str, Any]", value)
            return Config(inner, {name: f"{path}.{name}" for name in inner}, self.read)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __or__(self, other: Mapping[str, Any]) -> "Config":
        """Both together, the other's values where both have a key; nothing counts as read by it."""
        values, paths = dict(self._values), dict(self._paths)
        for key, value in other.items() if not isinstance(other, Config) else other._values.items():
            values[key] = value
            paths.pop(key, None)
        if isinstance(other, Config):
            paths |= other._paths
        return Config(values, paths, self.read)

    def __ror__(self, other: Mapping[str, Any]) -> "Config":
        return Config(other, {}, self.read) | self

    def unread(self) -> list[str]:
        """Paths of what nobody asked for; of a mapping that was asked for, what is inside it."""
        return list(self._unread(self._values, ""))

    def _unread(self, values: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for key, value in values.items():
            path = prefix + key
            if path not in self.read:
                yield path
            elif isinstance(value, dict):
                yield from self._unread(cast("dict[str, Any]", value), f"{path}.")


def read_config(path: Path) -> dict[str, Any]:
    """What a config.json says.

    Raises:
        InterchangeError: it cannot be read, or is not one JSON mapping.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InterchangeError.at(path, f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise InterchangeError.at(path, f"is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InterchangeError.at(path, "is not a mapping of keys to values")
    return cast("dict[str, Any]", values)
