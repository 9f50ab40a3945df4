"""The content of a config.json, which records what is read."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from blockformer.huggingface.nested_keys import merged


class Config(Mapping[str, Any]):
    """A read-only mapping that records every key that is read, also in the mappings inside it.

    Args:
        values: the content.
        paths: the dotted path of each key in the file; None: the keys themselves.
        read: the set that collects the paths that were read; all mappings of one file share it.
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

    def __or__(self, other: object) -> "Config":
        """Both merged, with the other's values where both have a key; merging does not count as reading."""
        if not isinstance(other, Mapping):
            return NotImplemented
        other = cast("Mapping[str, Any]", other)
        values, paths = dict(self._values), dict(self._paths)
        for key, value in other.items() if not isinstance(other, Config) else other._values.items():
            values[key] = value
            paths.pop(key, None)
        if isinstance(other, Config):
            paths |= other._paths
        return Config(values, paths, self.read)

    def __ror__(self, other: object) -> "Config":
        if not isinstance(other, Mapping):
            return NotImplemented
        return Config(cast("Mapping[str, Any]", other), {}, self.read) | self

    @property
    def plain(self) -> Mapping[str, Any]:
        """The content, which can be looked at without counting as read."""
        return self._values

    def over(self, defaults: Mapping[str, Any]) -> "Config":
        """The config with defaults for the keys that it lacks, also in the mappings inside it."""
        return Config(merged(defaults, self._values), self._paths, self.read)

    def unread(self) -> list[str]:
        """Dotted paths of the keys that were not read, also inside mappings that were."""
        return list(self._unread(self._values, ""))

    def _unread(self, values: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for key, value in values.items():
            path = prefix + key
            if path not in self.read:
                yield path
            elif isinstance(value, dict):
                yield from self._unread(cast("dict[str, Any]", value), f"{path}.")
