"""Which published models, and which families of the import, use a block."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

from blockformer.huggingface.family_file import builtin_families, read_family
from registry import builtin_recipes, entries, load_recipe, slots
from registry.recipe import recipes_folder
from registry.schema import keys_of

Used = Mapping[tuple[str, str], tuple[str, ...]]
"""By slot and name of a block: what uses it, in alphabetical order."""


def group_of(recipe: str) -> str:
    """The folder of a built-in recipe, such as ``llama``; empty for an example, which is no published model."""
    folder = builtin_recipes()[recipe].parent
    return "" if folder == recipes_folder() else folder.name


@cache
def groups_by_block() -> Used:
    """The groups of published models of which at least one recipe has the block."""
    found: dict[tuple[str, str], set[str]] = {}
    for name in builtin_recipes():
        if group := group_of(name):
            for _, spec in load_recipe(name).spec.walk():
                found.setdefault((spec.entry.slot, spec.entry.name), set()).add(group)
    return _sorted(found)


@cache
def families_by_block() -> Used:
    """The families whose files name the block."""
    found: dict[tuple[str, str], set[str]] = {}
    for name, path in builtin_families().items():
        tree, _ = read_family(path)
        if "match" in tree:  # others are for families to extend
            for place in _named(tree):
                found.setdefault(place, set()).add(name)
    return _sorted(found)


def _sorted(found: Mapping[tuple[str, str], set[str]]) -> Used:
    return {place: tuple(sorted(names)) for place, names in found.items()}


def _named(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for section in ("let", "recipe"):
        yield from _blocks("", tree.get(section, {}))


def _blocks(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """The blocks that a part of a family file names: as the ``type`` under a key that opens a slot, or as its value."""
    if isinstance(value, Mapping):
        for inner, item in cast("Mapping[str, Any]", value).items():
            yield from _blocks(key if inner == "type" else inner, item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _blocks(key, item)
    elif isinstance(value, str):
        words = re.findall(r"[\"']([a-z]\w*)[\"']", value) if value.startswith("=") else [value]
        for slot in _slots_of(key):
            yield from ((slot, word) for word in words if word in entries(slot))


@cache
def _slots_of(key: str) -> tuple[str, ...]:
    """The slots that a key opens, or that have its name; it may be the head of a function, such as ``norm(eps)``."""
    name = key.partition("(")[0]
    return tuple(slot for slot in slots() if name == slot or name in keys_of(slot))
