"""A config whose keys are found one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

from blockformer.huggingface.expression import ExpressionError

Path = tuple[str | int, ...]  # keys of nested configs and indices of lists, from the outermost


class ConflictError(Exception):
    """No config has the wanted value.

    Args:
        message: the reason.
        found: the value that the family gives instead, if it is known.
    """

    def __init__(self, message: str, found: Any = None) -> None:
        super().__init__(message)
        self.found = found


class NoInverseError(ConflictError):
    """Keys of the config cannot be found from the recipe, because no inverse of their expressions is known.

    Args:
        keys: each with the expression that reads it.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        super().__init__(f"{', '.join(keys)} cannot be found")
        self.keys = dict(keys)


class KnownKeys(Mapping[str, Any]):
    """A mapping in the config of which some keys are known; any other may be found later, so it cannot be read yet."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.known = dict(known)

    def __getitem__(self, key: str) -> Any:
        if key not in self.known:
            raise ExpressionError(f"the key {key!r} is not known yet")
        return self.known[key]

    def __contains__(self, key: object) -> bool:
        self[cast("str", key)]
        return True

    def __iter__(self) -> Iterator[str]:
        raise ExpressionError("not all keys are known yet")

    def __len__(self) -> int:
        raise ExpressionError("not all keys are known yet")

    def __bool__(self) -> bool:
        return True

    def __or__(self, other: Mapping[str, Any]) -> "KnownKeys":
        return KnownKeys(self.known | dict(other.known if isinstance(other, KnownKeys) else other))

    def __ror__(self, other: Mapping[str, Any]) -> "KnownKeys":
        return KnownKeys(dict(other) | self.known)


class KnownItems(Sequence[Any]):
    """A list in the config of which some items are known; any other may be found later, so it cannot be read yet."""

    def __init__(self, known: Mapping[int, Any]) -> None:
        self.known = dict(known)

    def __getitem__(self, index: Any) -> Any:
        if index not in self.known:
            raise ExpressionError(f"item {index} is not known yet")
        return self.known[index]

    def __len__(self) -> int:
        raise ExpressionError("not all items are known yet")

    def __contains__(self, value: object) -> bool:
        raise ExpressionError("not all items are known yet")

    def __iter__(self) -> Iterator[Any]:
        raise ExpressionError("not all items are known yet")

    def __bool__(self) -> bool:
        return True


class PartialConfig:
    """Values of config keys, some inside a mapping or a list; a guessed value is used where no certain one is known.

    Attributes:
        lengths: the number of items of lists that have one for each layer.
        plain: lists that may be written as one value if all items are equal.
    """

    def __init__(self) -> None:
        self.certain: dict[Path, Any] = {}
        self.guessed: dict[Path, Any] = {}
        self.lengths: dict[Path, int] = {}
        self.plain: set[Path] = set()

    def assign(self, path: Path, value: Any) -> None:
        """Assign a value to a key.

        Raises:
            ConflictError: the key already has another value.
        """
        if path in self.certain and not matches(self.certain[path], value):
            raise ConflictError(f"{dotted(path)} would have to be both {self.certain[path]} and {value}")
        for above in (path[:length] for length in range(1, len(path))):
            if above in self.certain and (found := _inside(self.certain[above], path[len(above) :])):
                if not matches(found[0], value):
                    raise ConflictError(f"{dotted(path)} would have to be both {found[0]} and {value}")
                return
        self.certain[path] = value

    def guess(self, path: Path, value: Any) -> None:
        """Assign a value that holds until a certain one is known."""
        self.guessed.setdefault(path, value)

    def copy(self) -> "PartialConfig":
        """A copy, to return to if an attempt fails."""
        keys = PartialConfig()
        keys.certain, keys.guessed = dict(self.certain), dict(self.guessed)
        keys.lengths, keys.plain = dict(self.lengths), set(self.plain)
        return keys

    def known(self, *, closed: bool) -> dict[str, Any]:
        """The certain keys.

        Args:
            closed: mappings have no other keys than those that are known; False: others may be found later.
        """
        return {key: _known(value, closed) for key, value in _tree(self.certain).items()}

    def config(self) -> dict[str, Any]:
        """The whole config, with guesses where nothing is certain.

        Raises:
            ConflictError: items of a list are missing.
        """
        inner = {path[:length] for path in self.certain for length in range(1, len(path))}
        guessed = {path: value for path, value in self.guessed.items() if path not in inner}
        tree = _tree({**guessed, **self.certain})
        return {key: self._whole((key,), value) for key, value in tree.items()}

    def _whole(self, path: Path, value: Any) -> Any:
        if isinstance(value, _Items):
            length = self.lengths.get(path, max(value, default=-1) + 1)
            if missing := [index for index in range(length) if index not in value]:
                raise NoInverseError(
                    {dotted(path): f"{dotted(path)}[layer], which has no value for layer {missing[0]}"}
                )
            items = [self._whole((*path, index), value[index]) for index in range(length)]
            equal = path in self.plain and all(matches(items[0], item) for item in items)
            return items[0] if equal else items
        if isinstance(value, _Keys):
            return {key: self._whole((*path, key), inner) for key, inner in value.items()}
        return value


class _Keys(dict[str, Any]):
    """A mapping that is put together from single keys."""


class _Items(dict[int, Any]):
    """A list that is put together from single items."""


def _tree(values: Mapping[Path, Any]) -> dict[str, Any]:
    root = _Keys()
    for path in sorted(values, key=len):
        inner: Any = root
        for key, following in pairwise(path):
            known = inner.get(key)
            if not isinstance(known, _Keys | _Items):
                whole = cast("dict[str, Any]", known) if isinstance(known, dict) else {}
                inner[key] = _Items() if isinstance(following, int) else _Keys(whole)
            inner = inner[key]
        inner[path[-1]] = values[path]
    return root


def _known(value: Any, closed: bool) -> Any:
    if isinstance(value, _Items):
        return KnownItems({index: _known(inner, closed) for index, inner in value.items()})
    if isinstance(value, _Keys):
        keys = {key: _known(inner, closed) for key, inner in value.items()}
        return keys if closed else KnownKeys(keys)
    return value


def _inside(whole: Any, path: Path) -> list[Any]:
    """The value inside a mapping or list, as a list of one; empty if there is none."""
    for key in path:
        try:
            whole = whole[key]
        except (KeyError, IndexError, TypeError):
            return []
    return [whole]


def dotted(path: Path) -> str:
    """A path as it is written in messages."""
    return ".".join(map(str, path))


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
