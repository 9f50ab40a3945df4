"""Merge recipes: deep merge, ``like``, overrides by paths of keys, and implied types made explicit."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from registry.errors import Mark, Problem, RecipeError, nearest, quoted
from registry.registration import Entry, Parameter, as_recipe, entries, slot_named, slots
from registry.slots import with_default_type
from registry.strict_yaml import MAX_DEPTH, Map, Seq, check_key, with_mark

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


Path = tuple[str | int, ...]


def merge(base: Any, change: Any) -> Any:
    """``change`` laid over ``base``, key by key; a block whose ``type`` changes starts afresh."""
    if isinstance(base, Map) and isinstance(change, str) and base.get("type") == change:
        return base
    if not isinstance(base, Map) or not isinstance(change, Map):
        return change
    if "type" in base and change.get("type", base["type"]) != base["type"]:
        return change
    both = Map(base, base.marks | change.marks, base.mark)
    for key, value in change.items():
        both[key] = merge(base[key], value) if key in base else value
    return both


def with_override(tree: Map, key: str, value: Any, mark: Mark) -> Map:
    """Lay ``value`` over the place ``a.b.c`` of ``tree``; a number in the key is an index of a list.

    A key that contains a dot is in quotes: ``layers."a.b".mixer``.

    Raises:
        RecipeError: the key is not of that form, or its index is outside the list.
    """
    parts = split_path(key)
    if len(parts) > MAX_DEPTH:
        raise RecipeError([Problem(mark, "", f"has {len(parts):,} keys; a path has at most {MAX_DEPTH}")])
    if not all(parts):
        raise RecipeError([Problem(mark, "", "must have the form key.key=value")])
    for part in parts:
        check_key(part, mark)
    return cast("Map", _set(tree, parts, with_mark(value, mark), mark))


def _set(node: Any, parts: list[str], value: Any, mark: Mark) -> Any:
    if not parts:
        return merge(node, value)
    part, rest = parts[0], parts[1:]
    if isinstance(node, Seq) and part.isdigit():
        index = int(part)
        if index >= len(node):
            raise RecipeError([Problem(mark, "", f"index {index} is out of range: the list has {len(node)} items")])
        items, marks = list(node), list(node.marks)
        items[index], marks[index] = _set(items[index], rest, value, mark), mark
        return Seq(items, marks)
    inner = node.get(part) if isinstance(node, Map) else None
    return merge(node, Map({part: _set(inner, rest, value, mark)}, {part: mark}, mark))


def resolve_like(node: Any, path: Path = ()) -> Any:
    """Resolve ``like: sibling`` in every mapping of named blocks.

    Raises:
        RecipeError: there is no such sibling, or the references are circular or too many.
    """
    if isinstance(node, Seq):
        return Seq([resolve_like(item, (*path, index)) for index, item in enumerate(node)], node.marks)
    if not isinstance(node, Map):
        return node
    siblings, done = Map(node, node.marks, node.mark), Map(node, node.marks, node.mark)
    for key in node:
        done[key] = resolve_like(_with_sibling(siblings, key, (), path), (*path, key))
    return done


def _with_sibling(siblings: Map, key: str, seen: tuple[str, ...], path: Path) -> Any:
    """The block of one key laid over the block that it is like; ``siblings`` keeps what was resolved."""
    value = siblings[key]
    if not isinstance(value, Map) or "like" not in value:
        return value
    name, mark = value["like"], value.marks["like"]
    here = dotted((*path, key, "like"))
    if not isinstance(name, str) or name not in siblings or name == key:
        others = [other for other in siblings if other != key]
        hint = nearest(str(name), others) or f"known: {', '.join(others) or 'none'}"
        raise RecipeError([Problem(mark, here, f"there is no {quoted(name)} beside {key!r}; {hint}")])
    if name in seen:
        raise RecipeError([Problem(mark, here, f"is a circular reference: {' -> '.join((*seen, key, name))}")])
    if len(seen) == MAX_DEPTH:
        raise RecipeError([Problem(mark, here, f"is a chain of more than {MAX_DEPTH} references; shorten it")])
    change = Map({k: v for k, v in value.items() if k != "like"}, value.marks, value.mark)
    siblings[key] = merge(_with_sibling(siblings, name, (*seen, key), path), change)
    return siblings[key]


def with_types(slot: str, value: Any, default: Any = None, *, filled: bool = False) -> Any:
    """The tree with every block's ``type`` written out; ``filled`` adds the blocks that only the defaults name.

    Unknown values pass through and are validated later.
    """
    written = _mapping(value)
    if not isinstance(written, Mapping) or "like" in written:
        return cast("Any", written)
    tree = _as_map(cast("Mapping[str, Any]", written))
    tree = Map(with_default_type(tree, default), tree.marks, tree.mark)
    if slot not in slots():
        return tree
    name = tree.get("type", slot_named(slot).default_block)
    entry = entries(slot).get(name) if isinstance(name, str) else None
    if entry is None:
        return tree
    result = Map({"type": name} | tree, tree.marks, tree.mark)
    for key, parameter in entry.parameters.items():
        if parameter.slot and (key in tree or filled):
            result[key] = _typed_parameter(parameter, tree.get(key, parameter.default), filled)
    return result


def _typed_parameter(parameter: Parameter, value: Any, filled: bool) -> Any:
    slot = cast("str", parameter.slot)
    if parameter.arity == "many" and isinstance(value, list | tuple):
        items = [with_types(slot, item, filled=filled) for item in cast("list[Any]", value)]
        return Seq(items, value.marks if isinstance(value, Seq) else None)
    if parameter.arity == "named" and isinstance(value, Mapping):
        tree = _as_map(cast("Mapping[str, Any]", value))
        return Map({name: with_types(slot, item, filled=filled) for name, item in tree.items()}, tree.marks, tree.mark)
    return value if value is None else with_types(slot, value, parameter.default, filled=filled)


def blocks_in(slot: str, tree: Any, path: Path = ()) -> Iterator[tuple[Path, Entry]]:
    """Every block of a filled tree (see :func:`with_types`): its key path and its entry."""
    name = tree.get("type") if isinstance(tree, Map) else None
    entry = entries(slot).get(name) if isinstance(name, str) else None
    if entry is None:
        return
    yield path, entry
    for key, parameter in entry.parameters.items():
        inner = tree.get(key)
        if not parameter.slot or inner is None:
            continue
        if parameter.arity == "one":
            yield from blocks_in(parameter.slot, inner, (*path, key))
            continue
        items = inner.items() if isinstance(inner, Map) else enumerate(inner) if isinstance(inner, Seq) else ()
        for suffix, item in items:
            yield from blocks_in(parameter.slot, item, (*path, key, suffix))


def _mapping(value: Any) -> Any:
    value = value if isinstance(value, Map) else as_recipe(value)
    return Map({"type": value}) if isinstance(value, str) else value


def _as_map(value: Mapping[str, Any]) -> Map:
    return value if isinstance(value, Map) else Map(value)
