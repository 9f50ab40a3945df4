"""The content of a config.json, which records what is read; keys of nested configs have dotted paths."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from registry.text import shortened

EACH = "*"


def values_at(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """The values at a dotted path, each with its own path; none if the config does not have the key.

    Args:
        config: the content of a config.json.
        path: a key, keys of nested configs joined by dots, or ``*`` for every item of a list.
    """
    found: list[tuple[str, Any]] = [("", config)]
    for part in path.split("."):
        found = [inner for prefix, value in found for inner in _inner(prefix, value, part)]
    yield from found


def set_at(config: dict[str, Any], path: str, value: Any) -> None:
    """Assign a value at a dotted path, and create the nested configs that are missing."""
    *parents, key = path.split(".")
    inner = config
    for parent in parents:
        if not isinstance(inner.get(parent), dict):
            inner[parent] = {}
        inner = cast("dict[str, Any]", inner[parent])
    inner[key] = value


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``change`` over ``base``, also in nested configs that both have."""
    both = dict(base)
    for key, value in change.items():
        first = both.get(key)
        nested = isinstance(first, dict) and isinstance(value, dict)
        both[key] = merged(cast("Any", first), cast("Any", value)) if nested else value
    return both


def below(path: str) -> str:
    """The part of a dotted path below its first key; empty for a key of the config itself, and for items of lists."""
    rest = path.partition(".")[2]
    return "" if EACH in rest.split(".") else rest


def config_of_its_own(config: Mapping[str, Any], path: str) -> str | None:
    """The key within the innermost nested config of transformers, which repeats the keys that every config has.

    Returns:
        The rest of the path; None if no mapping on it is a config of transformers, which has a ``model_type``.
    """
    parts, value, rest = path.split("."), cast("Any", config), None
    for index, part in enumerate(parts[:-1]):
        value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping) and "model_type" in value:
            rest = ".".join(parts[index + 1 :])
    return rest


def _inner(prefix: str, value: Any, part: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and part == EACH:
        items = cast("list[Any]", value)
        yield from ((shortened(f"{prefix}.{index}"), item) for index, item in enumerate(items))
    elif isinstance(value, Mapping) and part in value:
        yield f"{prefix}.{part}".lstrip("."), cast("Mapping[str, Any]", value)[part]


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
