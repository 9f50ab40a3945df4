"""For any block, a small model with it: a recipe with few keys that puts the block in its usual place."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any, cast

import yaml

from blockformer.assembly import check
from registry import Parameter, RecipeError, entries, load_recipe, slot_named

MODELS: Mapping[str, dict[str, Any]] = {
    "decoder_only": {"decoder": {"depth": 2}},
    "encoder_only": {"encoder": {"depth": 2}},
    "encoder_decoder": {"encoder": {"depth": 2}, "decoder": {"depth": 2}},
}
BESIDE: Mapping[str, dict[str, Any]] = {"readout": {"layer": {"residual": "hyper"}}}
"""Keys beside that of a slot without which it would have no effect."""
CHOOSING, TAKING = ({"mixer": {"type": "latent", "selector": name}} for name in ("indexer", "earlier"))
WHOLE: Mapping[tuple[str, str], dict[str, Any]] = {
    ("key_selector", "earlier"): {
        "decoder": {"depth": 2, "layers": {"choosing": CHOOSING, "same": TAKING}, "pattern": ["choosing", "same"]}
    }
}
"""Keys of a decoder with a block that is valid only after another one, by slot and name."""
SIZES = {"dim": 64, "vocab_size": 256, "max_length": 128}
DEPTH, UNUSUAL, TRIES = 6, 2, 12
"""Longest path of keys; most blocks on it that are not defaults; paths to try in each kind of model."""


@dataclass(frozen=True)
class _Place:
    """A place for a block: keys from the model inwards, each with the block that has it and its arity."""

    steps: tuple[tuple[str, str, str], ...]
    unusual: tuple[int, ...]
    inside_layer: bool
    optional: int

    @property
    def cost(self) -> tuple[int, bool, int, tuple[int, ...], int]:
        """Smaller for a place of fewer blocks that are no defaults, within a layer, with fewer keys, and as inner.

        Of equal ones, for the place with fewer keys that are null by default.
        """
        inner = tuple(-at for at in self.unusual)
        return len(self.unusual), not self.inside_layer, len(self.steps), inner, self.optional


@cache
def small_recipe(slot: str, name: str) -> str:
    """YAML of a small model that has the block, with its default parameters; empty if none was found.

    It is checked: it builds, and no key of it is without effect.
    """
    if slot == "model":
        return _written(_tree(name, (), name)) if name in MODELS and _valid(_tree(name, (), name)) else ""
    if (slot, name) in WHOLE:
        return _written({"type": "decoder_only", **SIZES, **WHOLE[slot, name]})
    for kind in [*MODELS, *(other for other in entries("model") if other not in MODELS)]:
        for place in islice(sorted(_places(slot, kind), key=lambda found: found.cost), TRIES):
            tree = _tree(kind, place.steps, name)
            if _valid(tree):
                return _written(tree)
    return ""


def _valid(tree: dict[str, Any]) -> bool:
    try:
        check(load_recipe(tree))
    except (RecipeError, ValueError):
        return False
    return True


def _places(slot: str, kind: str) -> Iterator[_Place]:
    """Every short path of keys to a slot. No slot occurs twice on it."""
    todo: list[tuple[str, str, _Place, frozenset[str]]] = [
        ("model", kind, _Place((), (), False, 0), frozenset({"model"}))
    ]
    while todo:
        owner, name, place, seen = todo.pop()
        for parameter in entries(owner)[name].parameters.values():
            inner = parameter.slot
            if inner is None or len(place.steps) == DEPTH or slot_named(inner).option:
                continue
            steps = (*place.steps, (name, parameter.name, parameter.arity))
            optional = place.optional + (parameter.default is None)
            found = _Place(steps, place.unusual, place.inside_layer or owner == "layer", optional)
            if inner == slot:
                yield found
            elif inner not in seen and len(found.unusual) <= UNUSUAL:
                for child in entries(inner):
                    unusual = found.unusual + ((len(steps),) if child != _default(parameter) else ())
                    todo.append((inner, child, replace(found, unusual=unusual), seen | {inner}))


def _default(parameter: Parameter) -> str | None:
    return slot_named(cast("str", parameter.slot)).implied(parameter.default)


def _tree(kind: str, steps: tuple[tuple[str, str, str], ...], name: str) -> dict[str, Any]:
    """The model with the block at the end of a path; blocks on the path that are defaults are not named."""
    tree: dict[str, Any] = {"type": kind, **SIZES, **{key: dict(value) for key, value in MODELS.get(kind, {}).items()}}
    here, last = tree, len(steps) - 1
    slot = "model"
    for index, (owner, key, arity) in enumerate(steps):
        parameter = entries(slot)[owner].parameters[key]
        slot = cast("str", parameter.slot)
        if index == last:
            here |= BESIDE.get(slot, {})
        following = name if index == last else steps[index + 1][0]
        value: Any = following if index == last else {"type": following}
        if index < last and following == _default(parameter):
            value = {}
        if key in here and isinstance(here[key], dict):
            here[key] |= value if isinstance(value, dict) else {"type": value}
            inner = here[key]
        else:
            here[key] = {"one": value, "many": [value], "named": {"*": value}}[arity]
            inner = value
        here = cast("dict[str, Any]", inner)
    return tree


def _written(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=False)
