"""Paths of keys as overrides and messages write them: ``decoder.layers."a.b".mixer``."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

_PLAIN = re.compile(r"[^.=\"'\s]+")
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'[^']*'"
_PART = re.compile(rf"{_QUOTED}|[^.\"']+|.", re.S)
_OVERRIDE = re.compile(rf"((?:{_QUOTED}|[^=\"']|[\"'])*?)=(.*)", re.S)


def dotted(path: Iterable[str | int]) -> str:
    """A key path as overrides write it: ``decoder.layers."a.b".mixer``."""
    return ".".join(key if _PLAIN.fullmatch(key := str(part)) else json.dumps(key) for part in path)


def split_path(text: str) -> list[str]:
    """The keys of a path that :func:`dotted` gives; a key in quotes may contain dots. Some may be empty."""
    parts = [""]
    for found in _PART.finditer(text):
        if found[0] == ".":
            parts.append("")
        else:
            parts[-1] += _unquoted(found[0])
    return parts


def flat(tree: Any) -> dict[str, Any]:
    """Flatten nested plain data to dotted keys and scalars; an empty list or mapping counts as a scalar."""
    return dict(_leaves(tree, ""))


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    items: Iterable[tuple[Any, Any]]
    if isinstance(tree, Mapping) and tree:
        items = cast("Mapping[Any, Any]", tree).items()
    elif isinstance(tree, list | tuple) and tree:
        items = enumerate(cast("Sequence[Any]", tree))
    else:
        yield path, tree
        return
    for key, value in items:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def split_override(text: str) -> tuple[str, str] | None:
    """Path and value of ``key.key=value``; an ``=`` in quotes belongs to a key. None: it has no ``=``."""
    found = _OVERRIDE.fullmatch(text)
    return None if found is None else (found[1], found[2])


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
    try:
        return str(json.loads(text)) if text[0] == '"' else text
    except ValueError:  # a backslash or a control character that JSON does not know
        return text
