"""Walk the tree of a recipe file: where a key was written, how its path is spelled, what it holds as plain data."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from registry.errors import Mark
from registry.strict_yaml import Map, Seq


def where(root: Map, path: Iterable[str | int]) -> Mark:
    """The mark of the deepest key on ``path`` that was written somewhere."""
    mark, tree = root.mark or Mark("recipe"), cast("Any", root)
    for key in path:
        marks = getattr(tree, "marks", None)
        try:
            tree = tree[key]
            mark = marks[key] if marks else mark
        except (KeyError, IndexError, TypeError):
            break
    return mark


def dotted(path: Iterable[str | int]) -> str:
    """A key path as recipes and overrides write it."""
    return ".".join(map(str, path))


def plain(value: Any) -> Any:
    """Map and Seq as plain mappings and tuples, which is what pydantic's strict mode expects of Python data."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    return tuple(plain(item) for item in cast("list[Any]", value)) if isinstance(value, list | tuple) else value


def from_plain(value: Any, mark: Mark) -> Any:
    """Plain data as Map and Seq, everything written at ``mark``."""
    if isinstance(value, Mapping):
        items = {str(key): from_plain(item, mark) for key, item in cast("Mapping[Any, Any]", value).items()}
        return Map(items, dict.fromkeys(items, mark), mark)
    if isinstance(value, list | tuple):
        items = [from_plain(item, mark) for item in cast("list[Any]", value)]
        return Seq(items, [mark] * len(items))
    return value
