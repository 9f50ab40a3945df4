"""Explain why a recipe cannot be exported as a family: each key that differs, with both values."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from blockformer.huggingface.config_solver import TRAINING_ONLY, ConfigSolver
from blockformer.huggingface.family import Family
from blockformer.huggingface.partial_config import ConflictError, PartialConfig
from blockformer.huggingface.template import expand_layers
from blocks.stacks.layers import LAYOUT
from registry import Mark, Problem, Recipe
from registry.errors import quoted
from registry.strict_yaml import mark_of


@dataclass(frozen=True)
class Mismatch:
    """A key of a recipe whose value the family does not support.

    Attributes:
        problem: the message for the user.
        weight: number of keys at this place: a whole block of another type counts more than one key.
    """

    problem: Problem
    weight: int = 1


class NearestConfigSolver(ConfigSolver):
    """Finds as many keys of a config as possible, and records the keys of the recipe that the family cannot produce."""

    def __init__(self, family: Family, keys: PartialConfig) -> None:
        super().__init__(family, keys)
        self.path: tuple[str, ...] = ()
        self.failed: tuple[tuple[str, ConflictError], ...] = ()  # each with the dotted path of the key

    def attempt(self, step: Callable[[], None], key: str = "") -> None:
        """Take a step; if it fails, undo and record it."""
        before, outer = (self.keys.copy(), list(self.pending), self.failed), self.path
        self.path = (*outer, key) if key else outer
        try:
            step()
        except ConflictError as conflict:
            self.keys, self.pending, failed = before
            self.failed = (*failed, (".".join(self.path), conflict))
        self.path = outer

    def first(self, *options: Callable[[], None]) -> None:
        """Take the first of the options with the fewest failures.

        Raises:
            ConflictError: all options conflict.
        """
        conflict, best = ConflictError("there are no options"), None
        start = (self.keys, self.pending, self.failed)
        for option in options:
            self.keys, self.pending, self.failed = start[0].copy(), list(start[1]), start[2]
            try:
                option()
            except ConflictError as error:
                conflict = error
                continue
            if best is None or len(self.failed) < len(best[2]):
                best = (self.keys, self.pending, self.failed)
            if best[2] == start[2]:
                break
        self.keys, self.pending, self.failed = best or start
        if best is None:
            raise conflict


def compare_recipes(recipe: Recipe, nearest: Recipe, family: Family) -> Iterator[Mismatch]:
    """The keys in which a recipe differs from the nearest one that the family supports.

    Args:
        recipe: the model.
        nearest: what the import of the nearest config gives.
        family: for the messages.
    """
    ours, theirs = recipe.spec.dump(runtime=False), nearest.spec.dump(runtime=False)
    yield from _compare(recipe, family, ours, theirs, ())


def unsolved_keys(recipe: Recipe, family: Family, failed: Mapping[str, ConflictError]) -> Iterator[Mismatch]:
    """The keys for which no config was found.

    Args:
        recipe: the model.
        family: for the messages.
        failed: the conflict of each key, by its dotted path with layers as numbers.
    """
    canonical = recipe.spec.dump(runtime=False)
    for dotted, conflict in failed.items():
        path, value = _written_path(canonical, dotted.split(".") if dotted else [])
        message = f"not supported by {family.name} ({conflict})"
        if conflict.found is not None:
            message = _required(family, conflict.found)
        yield _mismatch(recipe, path, f"is {_short(value)}; {message}", value)


def _compare(recipe: Recipe, family: Family, ours: Any, theirs: Any, path: tuple[str, ...]) -> Iterator[Mismatch]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        mine, other = cast("dict[str, Any]", ours), cast("dict[str, Any]", theirs)
        if mine.get("type") == other.get("type"):
            if "depth" in mine and "layer" in mine:
                yield from _compare_layers(recipe, family, mine, other, path)
            for key in mine:
                if key not in TRAINING_ONLY and not ("depth" in mine and key in LAYOUT):
                    yield from _compare(recipe, family, mine[key], other.get(key), (*path, key))
            return
    if ours != theirs:
        yield _mismatch(recipe, path, f"is {_short(ours)}; {_required(family, theirs)}", ours)


def _compare_layers(
    recipe: Recipe, family: Family, ours: dict[str, Any], theirs: dict[str, Any], path: tuple[str, ...]
) -> Iterator[Mismatch]:
    """Compare layer by layer, whatever their names are; a mismatch of a named layer is reported once."""
    seen: set[tuple[str, ...]] = set()
    for name, mine, other in zip(_layer_paths(ours), expand_layers(ours), expand_layers(theirs), strict=False):
        found = list(_compare(recipe, family, mine, other, (*path, *name)))
        yield from (mismatch for mismatch in found if (mismatch.problem.path,) not in seen)
        seen |= {(mismatch.problem.path,) for mismatch in found}


def _layer_paths(stack: dict[str, Any]) -> list[tuple[str, ...]]:
    """For each layer the path of its recipe within the stack."""
    if not stack.get("layers"):
        return [("layer",)] * len(expand_layers(stack))
    paths = {**stack, "layers": {name: ("layers", name) for name in stack["layers"]}}
    return expand_layers(paths)


def _written_path(canonical: Mapping[str, Any], path: list[str]) -> tuple[tuple[str, ...], Any]:
    """The path as the recipe has it, with names instead of numbers of layers, and the value there."""
    value: Any = canonical
    written: list[str] = []
    parts = iter(path)
    for part in parts:
        if part == "layers":
            stack, index = cast("dict[str, Any]", value), int(next(parts))
            written += _layer_paths(stack)[index]
            value = expand_layers(stack)[index]
        else:
            written.append(part)
            value = cast("dict[str, Any]", value).get(part) if isinstance(value, Mapping) else None
    return tuple(written), value


def _mismatch(recipe: Recipe, path: tuple[str, ...], message: str, value: Any) -> Mismatch:
    mark = mark_of(recipe.tree, path)
    return Mismatch(Problem(mark if mark.line else Mark(recipe.name), ".".join(path), message), _count_keys(value))


def _count_keys(value: Any) -> int:
    inner = cast("dict[str, Any]", value).values() if isinstance(value, Mapping) else ()
    return max(1, sum(map(_count_keys, inner)))


def _required(family: Family, value: Any) -> str:
    if value is None:
        return f"{family.name} does not support this: set it to null"
    return f"{family.name} requires {_short(value)}"


def _short(value: Any) -> str:
    """A value for a message; a block by its type."""
    if isinstance(value, Mapping):
        return str(cast("dict[str, Any]", value).get("type"))
    return value if isinstance(value, str) else quoted(value)
