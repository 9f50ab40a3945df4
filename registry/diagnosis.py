"""Turn pydantic's findings about a recipe into lines that a user can act on."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from registry.core import Entry, entries
from registry.errors import Problem, nearest
from registry.merge import Path, blocks_in, typed
from registry.strict_yaml import Map, Seq
from registry.trees import dotted, where


def diagnosed(slot: str, tree: Map, error: ValidationError) -> list[Problem]:
    """One problem a wrong key, in the order in which they were written."""
    filled = typed(slot, tree, filled=True)
    found: dict[Path, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        found.setdefault(_written(tree, details["loc"]), []).append(details)
    problems = [
        Problem(where(tree, path), dotted(path), _message(slot, filled, path, group)) for path, group in found.items()
    ]
    return sorted(problems, key=lambda problem: (problem.mark.source, problem.mark.line or 0))


def _written(tree: Map, location: Path) -> Path:
    """The part of pydantic's location that is a path in the recipe; the rest names members of a union."""
    node: Any = tree
    for index, key in enumerate(location):
        keys = node if isinstance(node, Map) else range(len(node)) if isinstance(node, Seq) else ()
        if key not in keys:
            return location[:index]
        node = cast("Any", node)[key]
    return location


def _message(slot: str, filled: Any, path: Path, group: list[ErrorDetails]) -> str:
    first = group[0]
    if first["type"] == "extra_forbidden":
        return _unknown_key(slot, filled, path)
    if first["type"] in ("unknown_block", "no_type", "block", "value_error"):
        return first["msg"].removeprefix("Value error, ")
    wishes = dict.fromkeys(_wish(details) for details in group)
    return f"must be {' or '.join(wishes)}, not {_shown(first['input'])}"


def _wish(details: ErrorDetails) -> str:
    message = details["msg"]
    for prefix in ("Input should be ", "Input should "):
        message = message.removeprefix(prefix)
    return message.removeprefix("a valid ")


def _shown(value: Any) -> str:
    if isinstance(value, dict | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "null" if value is None else repr(value)


def _unknown_key(slot: str, filled: Any, path: Path) -> str:
    *parents, key = path
    known = dict(blocks_in(slot, filled))
    here = known[tuple(parents)]
    message = f"{here.slot} {here.name!r} has no parameter {key!r}"
    return f"{message}; {'; '.join(_advice(known, tuple(parents), here, str(key)))}"


def _advice(known: dict[Path, Entry], parent: Path, here: Entry, key: str) -> Iterator[str]:
    homes = sorted(
        (path for path, entry in known.items() if key in entry.parameters), key=lambda path: _distance(path, parent)
    )
    if homes:
        yield f"it belongs in {dotted((*homes[0], key))!r}"
        return
    if close := nearest(key, here.parameters):
        yield close
        return
    siblings = [entry.name for entry in entries(here.slot).values() if key in entry.parameters]
    if siblings:
        yield f"{here.slot} {siblings[0]!r} has it"
    elsewhere = {(*path, name) for path, entry in known.items() for name in entry.parameters}
    if close := nearest(key, {str(path[-1]) for path in elsewhere}):
        name = close.split("'")[1]
        home = min((path for path in elsewhere if path[-1] == name), key=lambda path: _distance(path, parent))
        yield f"did you mean {dotted(home)!r}?"
    yield f"known: {', '.join(here.parameters) or 'none'}"


def _distance(path: Path, other: Path) -> tuple[int, int]:
    shared = next((i for i, (a, b) in enumerate(zip(path, other, strict=False)) if a != b), min(len(path), len(other)))
    return len(path) + len(other) - 2 * shared, len(path)
