"""Search a recipe for keys without effect."""

from collections.abc import Iterator
from typing import Any

from blockformer.assembly.unused_keys.probe import enabling_key, has_effect
from registry import Mark, Problem, Recipe, Spec, parse
from registry.spec import ParentArguments, Record
from registry.strict_yaml import Map, as_plain

Path = tuple[str | int, ...]
WrittenKey = tuple[Mark, str]
Calls = dict[int, list[tuple[ParentArguments, Any]]]
OVERRIDE = "override "


def unused_keys(recipe: Recipe, record: Record) -> list[Problem]:
    """A problem for each key that the recipe sets itself and that has no effect on the model.

    Not reported: keys of a base recipe, keys of a file that lose their effect through an override, and keys set to
    their default.

    Args:
        recipe: the recipe that was built.
        record: the record of that build. Variants are built on the default device.
    """
    unused = _unused(recipe, record)
    if recipe.before is not None and any(not _from_override(written) for written in unused):
        before, record_before = recipe.before(), Record()
        before.build(record=record_before)
        unused_before = _unused(before, record_before)
        unused = {w: place for w, place in unused.items() if _from_override(w) or w in unused_before}
    calls = _calls(record)
    return [
        recipe.problem((*path, key), _message(spec, calls[id(spec)][0][0], key))
        for (_, key), (path, spec) in unused.items()
    ]


def unused_paths(recipe: Recipe, record: Record) -> list[Path]:
    """The paths of all keys without effect, also of those that lose it through an override; faster: no messages."""
    return [(*path, key) for (_, key), (path, _) in _unused(recipe, record).items()]


def _unused(recipe: Recipe, record: Record) -> dict[WrittenKey, tuple[Path, Spec[Any]]]:
    if recipe.before is None and _is_canonical(recipe):
        return {}
    calls = _calls(record)
    known = {(id(spec), given): built for spec, given, built in record.built}
    unused: dict[WrittenKey, tuple[Path, Spec[Any]]] = {}
    used: set[WrittenKey] = set()
    for path, spec, key, mark in _own_keys(recipe, calls):
        written = (mark, key)
        if written in used:
            continue
        if any(has_effect(spec, given, built, key, known) for given, built in calls[id(spec)]):
            used.add(written)
        else:
            unused.setdefault(written, (path, spec))
    return {written: place for written, place in unused.items() if written not in used}


def _own_keys(recipe: Recipe, calls: Calls) -> Iterator[tuple[Path, Spec[Any], str, Mark]]:
    """Every key, not at its default, that the recipe file itself or an override sets for a block that was built."""
    for path, spec in recipe.spec.walk():
        node = _at(recipe.tree, path)
        if id(spec) not in calls or not isinstance(node, Map):
            continue
        for key, mark in node.marks.items():
            own = mark.source == recipe.source or mark.source.startswith(OVERRIDE)
            if own and key in node and key in spec.entry.parameters and not _is_default(spec, key, node[key]):
                yield path, spec, key, mark


def _message(spec: Spec[Any], given: ParentArguments, key: str) -> str:
    name, other = f"{spec.entry.slot} {spec.entry.name!r}", enabling_key(spec, given, key)
    if other is not None:
        return f"has no effect: {name} reads it only if {other!r} has another value; remove it, or change {other!r} too"
    return f"has no effect: {name} does not read it here; remove it"


def _calls(record: Record) -> Calls:
    found: Calls = {}
    for spec, given, built in record.built:
        found.setdefault(id(spec), []).append((given, built))
    return found


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _is_default(spec: Spec[Any], key: str, written: Any) -> bool:
    """Whether a key has its default value; a block also with all of its parameters written out."""
    parameter = spec.entry.parameters[key]
    default = parameter.default
    if parameter.slot is not None and default is not None and parameter.arity == "one":
        default = parse(parameter.slot, default).dump()
    return as_plain(written) == as_plain(default)


def _is_canonical(recipe: Recipe) -> bool:
    return as_plain(recipe.tree) == as_plain(recipe.dump())


def _from_override(written: WrittenKey) -> bool:
    return written[0].source.startswith(OVERRIDE)
