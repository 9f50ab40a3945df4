"""Name the keys of a config.json that have the value which is wrong in the recipe made of it."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from blockformer.huggingface.config import Config
from registry import Mark, Problem
from registry.errors import quoted
from registry.merge import split_path

_PARAMETER = re.compile(r"\b([a-z]\w*)=")  # as in "heads=5 is not a multiple of kv_heads=2"
_MOST = 3  # keys that are named


def named_in_config(problem: Problem, recipe: Mapping[str, Any], config: Config, file: Path) -> Problem:
    """A problem of a recipe, told as one of the config where a single key has the wrong value.

    Args:
        problem: with its line of the family file.
        recipe: what the family made of the config.
        config: the content of config.json, of which the family has read some keys.
        file: its path.

    Returns:
        The problem at the config's key, with the key of the recipe and the family's line in its message; where several
        keys have the value, the problem as it was, with their names; where none has, as it was.
    """
    value = _value_at(recipe, problem.path.removeprefix("recipe."))
    if isinstance(value, Mapping) and not _is_infinite(value):
        wrong = [value.get(name) for name in dict.fromkeys(_PARAMETER.findall(problem.message))]
    else:
        wrong = [value] if f"not {quoted(value)}" in problem.message else []  # else the family's key is wrong
    keys = [keys_with(config, one) for one in wrong]
    message = problem.message
    for one in wrong:
        if _is_infinite(one):
            message = message.replace(quoted(one), str(cast("dict[str, Any]", one)["__float__"]))
    if len(keys) == 1 and len(keys[0]) == 1:
        return Problem(Mark(str(file)), keys[0][0], f"{message} ({problem.path}, {problem.mark})")
    named = [f"{' or '.join(some)} is {quoted(one)}" for some, one in zip(keys, wrong, strict=False) if some]
    there = f"; in {file.name}, {' and '.join(named)}" if named and len(named) == len(keys) else ""
    return Problem(problem.mark, problem.path, message + there)


def keys_with(config: Config, value: Any) -> list[str]:
    """The dotted paths of the keys of a config that have been read and have a value; none if they are too many to help.

    Args:
        config: the content of a config.json.
        value: a number, a text, or a list or mapping of them; null has no key.
    """
    if value is None:
        return []
    written = _written(value)
    found = [path for path, other in _items(config.plain, "") if path in config.read and _written(other) == written]
    return found if len(found) <= _MOST else []


def _items(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield prefix + key, value
        if isinstance(value, Mapping):
            yield from _items(cast("Mapping[str, Any]", value), f"{prefix}{key}.")


def _value_at(recipe: Any, path: str) -> Any:
    for part in split_path(path) if path else ():
        if isinstance(recipe, Mapping) and part in recipe:
            recipe = cast("Mapping[str, Any]", recipe)[part]
        elif isinstance(recipe, list) and part.isdigit() and int(part) < len(cast("list[Any]", recipe)):
            recipe = cast("list[Any]", recipe)[int(part)]
        else:
            return None
    return recipe


def _is_infinite(value: Any) -> bool:
    return isinstance(value, Mapping) and list(cast("Mapping[str, Any]", value)) == ["__float__"]


def _written(value: Any) -> str:
    """The value as JSON, in which ``true``, ``1`` and ``1.0`` are different; in Python they are equal."""
    return json.dumps(
        value, sort_keys=True, default=lambda other: dict(other) if isinstance(other, Mapping) else str(other)
    )
