"""The differences between two recipes, block by block; each difference once, with all places where it occurs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from blockformer.assembly.descriptions import layout, names_of, specs_of, with_settings
from blocks.base import Component
from blocks.models.base import Model
from blocks.stacks.layers import LAYOUT
from registry import Spec, spec_of
from registry.merge import dotted, split_path
from registry.text import as_yaml, ranges

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes:
        places: dotted keys of the recipe; inside a stack with its layers in words.
        slot: slot of the block that differs, or that has the key.
        block: name of the block; ``old -> new`` if the block itself differs.
        key: the parameter that differs; empty if the block itself differs.
        old: old value as text; empty if there was no such block.
        new: new value, likewise.
        note: an explanation of the two values, such as ``multi-head -> multi-query``; usually empty.
    """

    places: tuple[str, ...]
    slot: str
    block: str
    key: str
    old: str
    new: str
    note: str = ""


@dataclass(frozen=True)
class _Found:
    """A difference at one path; inside a stack with the indices of the layers that have it."""

    change: Change
    stack: Path = ()
    inside: Path = ()
    layers: tuple[int, ...] = ()
    of: int = 0


@dataclass
class _Side:
    """A model, and the first block that was built from each Spec, by the Spec's id."""

    model: Model
    built: dict[int, Component] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for _, component in self.model.components():
            if (spec := spec_of(component)) is not None:
                self.built.setdefault(id(spec), component)


_Held = tuple[Spec[Any], str | None, _Side]
"""A Spec, one of its keys or None if it lacks that key, and the model that contains the block."""


def compare(a: Model, b: Model) -> list[Change]:
    """All differences between the recipes that two models were built from; none if they are the same.

    Args:
        a: the old model; it can be on the meta device.
        b: the new model, likewise.

    Raises:
        ValueError: a model was not built from a recipe.
    """
    old, new = spec_of(a), spec_of(b)
    if old is None or new is None:
        raise ValueError("compare: a model was constructed by hand; build both from recipes")
    return _grouped(list(_specs((), old, new, _Side(a), _Side(b))))


def _specs(path: Path, a: Spec[Any], b: Spec[Any], one: _Side, other: _Side) -> Iterator[_Found]:
    if a.identity() == b.identity():
        return
    replaced = a.entry is not b.entry
    if replaced:
        said = (_whole(a), _whole(b)) if path else (a.entry.name, b.entry.name)
        yield _Found(_change_at(path, a.entry.slot, f"{a.entry.name} -> {b.entry.name}", "", *said))
        if path:  # the parameters of two different blocks are not comparable, except those of two models
            return
    stacks = one.built.get(id(a)), other.built.get(id(b))
    hidden: frozenset[str] = frozenset()
    if not replaced and stacks[0] and stacks[1] and specs_of(stacks[0]) and specs_of(stacks[1]):
        hidden = LAYOUT
        yield from _layers(path, stacks[0], stacks[1], one, other)
    for key_a, key_b in _keys(a, b):
        if (key_a or key_b) not in hidden:
            yield from _values(path, (a, key_a, one), (b, key_b, other))


def _keys(a: Spec[Any], b: Spec[Any]) -> Iterator[tuple[str | None, str | None]]:
    """The keys of two blocks in pairs; the only stacks of two kinds of models are paired under their two names."""
    there, here = a.entry.parameters, b.entry.parameters
    stacks = [[key for key, parameter in known.items() if parameter.slot == "stack"] for known in (there, here)]
    renamed = {stacks[1][0]: stacks[0][0]} if len(stacks[0]) == len(stacks[1]) == 1 else {}
    partners = {key: renamed.get(key, key if key in there else None) for key in here}
    yield from ((partner, key) for key, partner in partners.items())
    yield from ((key, None) for key in there if key not in partners.values())


def _values(path: Path, a: _Held, b: _Held) -> Iterator[_Found]:
    """The differences under one key."""
    spec, key = (b if b[1] is not None else a)[:2]
    assert key is not None
    parameter = spec.entry.parameters[key]
    if parameter.runtime:
        return
    old, new = (None if key is None else getattr(spec.params, key) for spec, key, _ in (a, b))
    if parameter.slot is None:
        if old != new and a[1] is not None and b[1] is not None:
            said = _value(old, a), _value(new, b)
            change = _change_at(path, spec.entry.slot, spec.entry.name, key, *said)
            yield _Found(replace(change, note=_note(key, a, b)))
        return
    before, after = dict(_children(old)), dict(_children(new))
    for step in dict.fromkeys((*before, *after)):
        place, x, y = (*path, key, *step), before.get(step), after.get(step)
        if x is not None and y is not None:
            yield from _specs(place, x, y, a[2], b[2])
        elif (one := x or y) is not None:
            yield _Found(_change_at(place, one.entry.slot, one.entry.name, "", _whole(x), _whole(y)))


def _children(value: Any) -> Iterator[tuple[Path, Spec[Any]]]:
    """The Specs in one value of a parameter, each with its path inside the value."""
    if isinstance(value, Spec):
        yield (), value
    elif isinstance(value, Mapping):
        yield from (((name,), item) for name, item in value.items() if isinstance(item, Spec))
    elif isinstance(value, tuple):
        yield from (((index,), item) for index, item in enumerate(value) if isinstance(item, Spec))


def _layers(path: Path, a: Component, b: Component, one: _Side, other: _Side) -> Iterator[_Found]:
    """Compare the layers in pairs, each distinct pair of Specs once, and the layout of the stacks."""
    names = names_of(a), names_of(b)
    if _shape(a) != _shape(b) and (any(names[0]) or any(names[1])):
        yield _Found(_change_at(path, "stack", "layers", "layers", layout(names[0]), layout(names[1])))
    pairs: dict[tuple[int, int], list[int]] = {}
    specs = specs_of(a), specs_of(b)
    for index, (x, y) in enumerate(zip(*specs, strict=False)):
        pairs.setdefault((id(x), id(y)), []).append(index)
    for indices in pairs.values():
        x, y = (side[indices[0]] for side in specs)
        for found in _specs((), x, y, one, other):
            inside = tuple(split_path(found.change.places[0])) if found.change.places[0] else ()
            yield replace(found, stack=path, inside=inside, layers=tuple(indices), of=min(map(len, specs)))


def _shape(stack: Component) -> list[int]:
    """For each layer the index of the first layer with the same hash, whatever their names."""
    specs = specs_of(stack)
    hashes = {id(spec): spec.hash for spec in {id(spec): spec for spec in specs}.values()}
    first: dict[str, int] = {}
    return [first.setdefault(hashes[id(spec)], index) for index, spec in enumerate(specs)]


def _whole(spec: Spec[Any] | None) -> str:
    return "none" if spec is None else with_settings(spec)


def _value(value: Any, held: _Held) -> str:
    """A parameter's value; for null also the number that the block computed, if it is an attribute of that name."""
    made = _made(held)
    return f"null ({made})" if value is None and made is not None else as_yaml(value)


def _made(held: _Held, key: str | None = None) -> int | float | None:
    spec, own, side = held
    made = getattr(side.built.get(id(spec)), key or own or "", None)
    return made if isinstance(made, int | float) and not isinstance(made, bool) else None


def _note(key: str, a: _Held, b: _Held) -> str:
    """The papers' name for how query heads share keys and values, if it changes."""
    same = getattr(a[0].params, "kv_heads", None) == getattr(b[0].params, "kv_heads", None)
    if key != ("heads" if same else "kv_heads"):
        return ""
    kinds = [_sharing(_made(held, "heads"), _made(held, "kv_heads")) for held in (a, b)]
    return f"{kinds[0]} -> {kinds[1]}" if all(kinds) and kinds[0] != kinds[1] else ""


def _sharing(heads: int | float | None, kv_heads: int | float | None) -> str:
    if not heads or not kv_heads:
        return ""
    if heads == kv_heads:
        return "multi-head"
    return "multi-query" if kv_heads == 1 else f"grouped-query, {heads // kv_heads} query heads a key"


def _grouped(found: list[_Found]) -> list[Change]:
    """Merge equal differences: first over the layers of a stack, then over all places."""
    return _merged(_once(found))


def _once(found: list[_Found]) -> list[Change]:
    """Merge the same difference in several kinds of layers into one for all those layers."""
    merged: dict[tuple[Any, ...], list[_Found]] = {}
    for one in found:
        change = replace(one.change, places=())
        merged.setdefault((change, one.stack, one.inside) if one.layers else (one.change,), []).append(one)
    result: list[Change] = []
    for group in merged.values():
        first = group[0]
        if first.layers:
            place = _place(first, sorted(index for one in group for index in one.layers))
            result.append(replace(first.change, places=(place,)))
        else:
            result.append(first.change)
    return result


def _place(found: _Found, layers: list[int]) -> str:
    which = "all layers" if len(layers) == found.of else f"layer{'s' * (len(layers) > 1)} {ranges(layers)}"
    return ", ".join(filter(None, (dotted(found.stack), which, dotted(found.inside))))


def _merged(changes: list[Change]) -> list[Change]:
    """Merge the same difference in several places into one."""
    places: dict[Change, list[str]] = {}
    for change in changes:
        places.setdefault(replace(change, places=()), []).extend(change.places)
    return [replace(change, places=tuple(found)) for change, found in places.items()]


def _change_at(path: Path, slot: str, block: str, key: str, old: str, new: str) -> Change:
    """A difference in one place; other arguments as for :class:`Change`."""
    return Change((dotted(path),), slot, block, key, old, new)
