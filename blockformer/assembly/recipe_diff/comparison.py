"""What differs between two recipes, in terms of blocks: each difference once, with all the places where it stands."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from blockformer.assembly.layer_names import layout, names_of, specs_of
from blockformer.assembly.recipe_diff.changes import Change, Found, Path, change_at, together
from blockformer.assembly.settings import named
from blocks.base import Component
from blocks.models.base import Model
from blocks.stacks.layers import LAYOUT
from registry import Spec, spec_of
from registry.text import as_yaml


@dataclass
class _Side:
    """A model, and which of its blocks was built from which Spec."""

    model: Model
    built: dict[int, Component] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for _, component in self.model.components():
            if (spec := spec_of(component)) is not None:
                self.built.setdefault(id(spec), component)


_Held = tuple[Spec[Any], str | None, _Side]
"""A key of a block, if it has it, and the model in which the block stands."""


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
    return together(list(_specs((), old, new, _Side(a), _Side(b))))


def _specs(path: Path, a: Spec[Any], b: Spec[Any], one: _Side, other: _Side) -> Iterator[Found]:
    if a.identity() == b.identity():
        return
    replaced = a.entry is not b.entry
    if replaced:
        said = (_whole(a), _whole(b)) if path else (a.entry.name, b.entry.name)
        yield Found(change_at(path, a.entry.slot, f"{a.entry.name} -> {b.entry.name}", "", *said))
        if path:  # below the model itself, what the two blocks are made of has nothing to do with each other
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
    """The keys of two blocks in pairs; of two kinds of models with one stack each, the stacks are one."""
    there, here = a.entry.parameters, b.entry.parameters
    stacks = [[key for key, parameter in known.items() if parameter.slot == "stack"] for known in (there, here)]
    renamed = {stacks[1][0]: stacks[0][0]} if len(stacks[0]) == len(stacks[1]) == 1 else {}
    partners = {key: renamed.get(key, key if key in there else None) for key in here}
    yield from ((partner, key) for key, partner in partners.items())
    yield from ((key, None) for key in there if key not in partners.values())


def _values(path: Path, a: _Held, b: _Held) -> Iterator[Found]:
    """What differs under one key."""
    spec, key = (b if b[1] is not None else a)[:2]
    assert key is not None
    parameter = spec.entry.parameters[key]
    if parameter.runtime:
        return
    old, new = (None if key is None else getattr(spec.params, key) for spec, key, _ in (a, b))
    if parameter.slot is None:
        if old != new and a[1] is not None and b[1] is not None:
            said = _value(old, a), _value(new, b)
            change = change_at(path, spec.entry.slot, spec.entry.name, key, *said)
            yield Found(replace(change, note=_note(key, a, b)))
        return
    before, after = dict(_children(old)), dict(_children(new))
    for step in dict.fromkeys((*before, *after)):
        place, x, y = (*path, key, *step), before.get(step), after.get(step)
        if x is not None and y is not None:
            yield from _specs(place, x, y, a[2], b[2])
        elif (one := x or y) is not None:
            yield Found(change_at(place, one.entry.slot, one.entry.name, "", _whole(x), _whole(y)))


def _children(value: Any) -> Iterator[tuple[Path, Spec[Any]]]:
    """The Specs in one value of a parameter, each with what its path adds to the parameter's."""
    if isinstance(value, Spec):
        yield (), value
    elif isinstance(value, Mapping):
        yield from (((name,), item) for name, item in value.items() if isinstance(item, Spec))
    elif isinstance(value, tuple):
        yield from (((index,), item) for index, item in enumerate(value) if isinstance(item, Spec))


def _layers(path: Path, a: Component, b: Component, one: _Side, other: _Side) -> Iterator[Found]:
    """Layer by layer, each pair of kinds once; and how they are laid out, if that differs."""
    names = names_of(a), names_of(b)
    if _shape(a) != _shape(b) and (any(names[0]) or any(names[1])):
        yield Found(change_at(path, "stack", "layers", "layers", layout(names[0]), layout(names[1])))
    pairs: dict[tuple[int, int], list[int]] = {}
    specs = specs_of(a), specs_of(b)
    for index, (x, y) in enumerate(zip(*specs, strict=False)):
        pairs.setdefault((id(x), id(y)), []).append(index)
    for indices in pairs.values():
        x, y = (side[indices[0]] for side in specs)
        for found in _specs((), x, y, one, other):
            inside = tuple(found.change.places[0].split(".")) if found.change.places[0] else ()
            yield replace(found, stack=path, inside=inside, layers=tuple(indices), of=min(map(len, specs)))


def _shape(stack: Component) -> list[int]:
    """Which layers are alike, whatever they are called."""
    hashes = [spec.hash for spec in specs_of(stack)]
    return [hashes.index(one) for one in hashes]


def _whole(spec: Spec[Any] | None) -> str:
    return "none" if spec is None else named(spec)


def _value(value: Any, held: _Held) -> str:
    """A parameter's value, and where it is null what the block made of it, if it keeps that under the same name."""
    made = _made(held)
    return f"null ({made})" if value is None and made is not None else as_yaml(value)


def _made(held: _Held, key: str | None = None) -> int | float | None:
    spec, own, side = held
    made = getattr(side.built.get(id(spec)), key or own or "", None)
    return made if isinstance(made, int | float) and not isinstance(made, bool) else None


def _note(key: str, a: _Held, b: _Held) -> str:
    """The papers' name for how query heads share keys and values, if that changes."""
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
