"""Make the variants of a study as large as its base, by changing the keys that the study names."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from blockformer.assembly import check
from blockformer.studies.study import Variant
from blockformer.studies.study_file import Match, Quantity
from blocks.models.base import Model
from registry import Problem, Recipe, RecipeError, load_recipe

EMBEDDING_SLOTS = ("embedding", "input_positions", "head")
MOST = 1 << 20  # largest value that a key is tried with
FEW, MANY = 64, 512  # values that are tried one by one where they have no common distance; of more, only divisors
UNITS: Mapping[Quantity, str] = {
    "parameters": "parameters",
    "non_embedding": "parameters outside embeddings",
    "active": "active parameters",
    "flops": "FLOPs per token",
    "cache": "bytes of cache",
}


@dataclass(frozen=True)
class Matched:
    """A variant at its final size.

    Attributes:
        variant: with the values of the changed keys among its overrides.
        recipe: its recipe.
        changed: the keys that matching has set.
        size: in the unit of the study's `match.what`.
        off: relative difference from the base's size.
    """

    variant: Variant
    recipe: Recipe
    changed: dict[str, int]
    size: float
    off: float


def matched(variant: Variant, target: float | None, match: Match, length: int) -> Matched:
    """Bring a variant to the size of the base.

    Args:
        variant: the variant.
        target: the base's size; None: no matching.
        match: what is matched, by which keys, how closely.
        length: tokens of a sequence, for FLOPs and cache.

    Raises:
        RecipeError: the size cannot be reached; the message names the closest.
    """
    recipe = load_recipe(variant.recipe, variant.overrides)
    here = size_of(check(recipe), match.what, length)
    if target is None or match.what == "none" or _off(here, target) <= match.within:
        return Matched(variant, recipe, {}, here, 0.0 if target is None else here / target - 1)
    changed: dict[str, int] = {}
    for key in match.keys_of(variant.name):
        size = _sizes(variant, changed, key, match, length)
        start = _start(recipe, key)
        if start is None or size(start) is None:
            continue
        value = _closest(size, start, target, match.multiple)
        changed[key], here = value, size(value) or here
        if _off(here, target) <= match.within:
            final = Variant(variant.name, variant.recipe, {**variant.overrides, **changed}, variant.mark)
            return Matched(final, load_recipe(final.recipe, final.overrides), changed, here, here / target - 1)
    raise RecipeError([_unreachable(variant, changed, here, target, match)])


def size_of(model: Model, what: Quantity, length: int) -> float:
    """The size of a model, on the meta device, in the unit of ``what``."""
    if what == "flops":
        return model.flops_per_token(length)
    if what == "cache":
        from blockformer.inspection.cost import cache_bytes

        return float(cache_bytes(model, length, next(model.parameters()).dtype))
    if what == "non_embedding":
        slots = model.parameters_by_slot()
        return float(model.size - sum(slots.get(slot, 0) for slot in EMBEDDING_SLOTS))
    return float(active_parameters(model) if what == "active" else model.size)


def active_parameters(model: Model) -> int:
    """Parameters that take part for a token: of a mixture of experts, the share of the experts that are chosen."""
    idle = 0.0
    for module in model.modules():
        experts, top_k = getattr(module, "experts", None), getattr(getattr(module, "router", None), "top_k", None)
        if isinstance(experts, nn.Module) and top_k is not None:
            stored = sum(parameter.numel() for parameter in experts.parameters())
            idle += stored * (1 - top_k / cast("int", module.size))
    return round(model.size - idle)


def _off(size: float, target: float) -> float:
    return abs(size / target - 1) if target else math.inf


def _start(recipe: Recipe, key: str) -> int | None:
    """The value of an integer key as the recipe has it; None: it has no such key."""
    tree: Any = recipe.dump()
    for part in key.split("."):
        try:
            tree = tree[int(part)] if isinstance(tree, list | tuple) else tree[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    if isinstance(tree, int) and not isinstance(tree, bool):
        return tree
    return recipe.dump().get("dim") if tree is None else None  # a width that the block derives from the model's


def _sizes(
    variant: Variant, changed: Mapping[str, int], key: str, match: Match, length: int
) -> Callable[[int], float | None]:
    """The size of the variant for a value of the key; None where the value is not valid."""
    known: dict[int, float | None] = {}

    def size(value: int) -> float | None:
        if value not in known:
            try:
                recipe = load_recipe(variant.recipe, {**variant.overrides, **changed, key: value})
                known[value] = size_of(check(recipe), match.what, length)
            except RecipeError:
                known[value] = None
        return known[value]

    return size


def _step(size: Callable[[int], float | None], start: int, multiple: int) -> int | None:
    """The smallest distance between valid values: 1, or for a width that heads divide, the number of heads.

    None: the valid values have no common distance, as those of `kv_heads`, which divide the heads.
    """
    for step in (multiple, *(divisor for divisor in _divisors(start) if divisor % multiple == 0)):
        origin = start // step * step
        if all(value > 0 and size(value) is not None for value in (origin + step, origin + 2 * step)):
            return step
    return None


def _divisors(number: int) -> list[int]:
    """All divisors up to :data:`MOST`, ascending."""
    small = [divisor for divisor in range(1, min(math.isqrt(number), MOST) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small if number // divisor <= MOST)})


def _closest(size: Callable[[int], float | None], start: int, target: float, multiple: int) -> int:
    """The valid value with the size closest to ``target``."""
    step = _step(size, start, multiple)
    if step is None:
        tried = range(multiple, max(FEW, 2 * start) + 1, multiple)
        if len(tried) > MANY:
            tried = [divisor for divisor in _divisors(2 * start) if divisor % multiple == 0]
        valid = [value for value in tried if size(value) is not None]
        return min(valid or [start], key=lambda value: _off(size(value) or math.inf, target))
    return _bisected(size, start, target, step)


def _bisected(size: Callable[[int], float | None], start: int, target: float, step: int) -> int:
    """The multiple of ``step`` with the size closest to ``target``; sizes grow with the value."""

    def at(index: int) -> float:
        return size(index * step) or math.inf

    low, high = 1, max(1, round(start / step))
    while at(high) < target and high * step < MOST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) < target else (low, middle)
    return min((low, high), key=lambda index: _off(at(index), target)) * step


def _unreachable(variant: Variant, changed: Mapping[str, int], size: float, target: float, match: Match) -> Problem:
    unit, keys = UNITS[match.what], match.keys_of(variant.name)
    closest = ", ".join(f"{key} {value}" for key, value in changed.items())
    have = f"{variant.name} has {size:,.0f} {unit}, the base {target:,.0f} ({size / target - 1:+.2%})"
    if not changed:
        why = (
            f"none of match.by ({', '.join(keys)}) is a number in this variant"
            if keys
            else "match.by names no key for it"
        )
    else:
        why = f"the closest is with {closest}"
    remedy = f"name another key in match.by, or allow match.within {_off(size, target):.3g}"
    return Problem(variant.mark, variant.name, f"cannot be matched within {match.within:.2g}: {have}; {why}; {remedy}")
