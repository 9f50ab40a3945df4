"""Which keys of a recipe change nothing."""

from collections.abc import Iterator
from typing import Any

from blockformer.assembly.unused_keys.probe import depends_on, matters
from registry import Mark, Problem, Recipe, Spec, parse
from registry.spec import ParentArguments, Record
from registry.strict_yaml import Map, as_plain

Path = tuple[str | int, ...]
Written = tuple[Mark, str]  # where a key was written, and the key
Calls = dict[int, list[tuple[ParentArguments, Any]]]
OVERRIDE = "override "


def unused_keys(recipe: Recipe, record: Record) -> list[Problem]:
    """A problem for each key that the recipe itself says and that cannot change the model.

    A key of a base may lose its effect in what extends it, and one of a file by an override; a default that is written
    out claims nothing, and the canonical form writes all of them. None of these is a mistake.

    Args:
        recipe: what was built.
        record: what happened then. What is tried is built on the default device.
    """
    found = _unused(recipe, record)
    if recipe.before is not None and any(not _of_override(written) for written in found):
        before, again = recipe.before(), Record()
        before.build(record=again)
        kept = _unused(before, again)
        found = {w: place for w, place in found.items() if _of_override(w) or w in kept}
    calls = _calls(record)
    return [
        recipe.problem((*path, key), _message(spec, calls[id(spec)][0][0], key))
        for (_, key), (path, spec) in found.items()
    ]


def unused_paths(recipe: Recipe, record: Record) -> list[Path]:
    """Where the keys are of which :func:`unused_keys` tells, without why: that takes longer than to find them."""
    return [(*path, key) for (_, key), (path, _) in _unused(recipe, record).items()]


def _unused(recipe: Recipe, record: Record) -> "dict[Written, tuple[Path, Spec[Any]]]":
    if recipe.before is None and _is_canonical(recipe):
        return {}
    calls = _calls(record)
    known = {(id(spec), given): built for spec, given, built in record.built}
    idle: dict[Written, tuple[Path, Spec[Any]]] = {}
    active: set[Written] = set()
    for path, spec, key, mark in _said(recipe, calls):
        written = (mark, key)
        if written in active:
            continue
        if any(matters(spec, given, built, key, known) for given, built in calls[id(spec)]):
            active.add(written)
        else:
            idle.setdefault(written, (path, spec))
    return {written: place for written, place in idle.items() if written not in active}


def _said(
    recipe: Recipe, calls: dict[int, list[tuple[ParentArguments, Any]]]
) -> Iterator[tuple[Path, Spec[Any], str, Mark]]:
    """Every key that the recipe or an override says about a block that was built."""
    for path, spec in recipe.spec.walk():
        node = _at(recipe.tree, path)
        if id(spec) not in calls or not isinstance(node, Map):
            continue
        for key, mark in node.marks.items():
            own = mark.source == recipe.source or mark.source.startswith(OVERRIDE)
            if own and key in node and key in spec.entry.parameters and not _is_default(spec, key, node[key]):
                yield path, spec, key, mark


def _message(spec: Spec[Any], given: ParentArguments, key: str) -> str:
    name, other = f"{spec.entry.slot} {spec.entry.name!r}", depends_on(spec, given, key)
    if other is not None:
        return f"changes nothing here: {name} reads it only with another {other!r}; leave it out, or say that too"
    return f"changes nothing here: {name} does not read it in this place; leave it out"


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
    """Whether a key says no more than its absence: its default, a block with all its parameters written out."""
    parameter = spec.entry.parameters[key]
    default = parameter.default
    if parameter.slot is not None and default is not None and parameter.arity == "one":
        default = parse(parameter.slot, default).dump()
    return as_plain(written) == as_plain(default)


def _is_canonical(recipe: Recipe) -> bool:
    return as_plain(recipe.tree) == as_plain(recipe.dump())


def _of_override(written: Written) -> bool:
    return written[0].source.startswith(OVERRIDE)
