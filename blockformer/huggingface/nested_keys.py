"""Keys of nested configs by dotted paths: ``attn_config.clip_qkv``, and ``layer_types.*`` for every item of a list."""

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
