"""What keeps a recipe from being one of a family: each key with our value and the family's."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from blockformer.huggingface.config_solver import Solver
from blockformer.huggingface.family import Family
from blockformer.huggingface.keys import TRAINING, ConflictError, Keys
from blockformer.huggingface.layer_pattern import listed
from blocks.stacks.layers import LAYOUT
from registry import Mark, Problem, Recipe
from registry.errors import quoted
from registry.strict_yaml import mark_of


@dataclass(frozen=True)
class Obstacle:
    """One place of a recipe that a family cannot say.

    Attributes:
        problem: for the user.
        weight: number of keys that stand there, as a whole block of another type is further away than one key.
    """

    problem: Problem
    weight: int = 1


class NearestSolver(Solver):
    """Finds as much of a config as there is, and remembers the keys of the recipe that the family cannot give."""

    def __init__(self, family: Family, keys: Keys) -> None:
        super().__init__(family, keys)
        self.path: tuple[str, ...] = ()
        self.failed: tuple[tuple[str, ConflictError], ...] = ()

    def attempt(self, step: Callable[[], None], key: str = "") -> None:
        """Take a step, and go on without it if it fails."""
        before, outside = (self.keys.copy(), list(self.pending), self.failed), self.path
        self.path = (*outside, key) if key else outside
        try:
            step()
        except ConflictError as conflict:
            self.keys, self.pending, failed = before
            self.failed = (*failed, (".".join(self.path), conflict))
        self.path = outside

    def first(self, *options: Callable[[], None]) -> None:
        """Take the option that fails in the fewest places; the first of several.

        Raises:
            ConflictError: all conflict as a whole.
        """
        conflict, best = ConflictError("nothing to choose from"), None
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


def differing(recipe: Recipe, nearest: Recipe, family: Family) -> Iterator[Obstacle]:
    """A place for every key in which a recipe is not the nearest one that the family says.

    Args:
        recipe: the model.
        nearest: what the family makes of the config that was found for it.
        family: for the messages.
    """
    ours, theirs = recipe.spec.dump(runtime=False), nearest.spec.dump(runtime=False)
    yield from _differing(recipe, family, ours, theirs, ())


def failing(recipe: Recipe, family: Family, failed: Mapping[str, ConflictError]) -> Iterator[Obstacle]:
    """A place for every key that the solver could not give, where no whole config was found.

    Args:
        recipe: the model.
        family: for the messages.
        failed: why, by the key's path; layers are numbers.
    """
    canonical = recipe.spec.dump(runtime=False)
    for dotted, conflict in failed.items():
        path, value = _written(canonical, dotted.split(".") if dotted else [])
        message = f"{family.name} cannot say it ({conflict})"
        if conflict.instead is not None:
            message = _there(family, conflict.instead)
        yield _obstacle(recipe, path, f"is {_kind(value)}; {message}", value)


def _differing(recipe: Recipe, family: Family, ours: Any, theirs: Any, path: tuple[str, ...]) -> Iterator[Obstacle]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        mine, other = cast("dict[str, Any]", ours), cast("dict[str, Any]", theirs)
        if mine.get("type") == other.get("type"):
            if "depth" in mine and "layer" in mine:
                yield from _layers(recipe, family, mine, other, path)
            for key in mine:
                if key not in TRAINING and not ("depth" in mine and key in LAYOUT):
                    yield from _differing(recipe, family, mine[key], other.get(key), (*path, key))
            return
    if ours != theirs:
        yield _obstacle(recipe, path, f"is {_kind(ours)}; {_there(family, theirs)}", ours)


def _layers(
    recipe: Recipe, family: Family, ours: dict[str, Any], theirs: dict[str, Any], path: tuple[str, ...]
) -> Iterator[Obstacle]:
    """Layer by layer, whatever they are called; what layers of one name share is said once."""
    seen: set[tuple[str, ...]] = set()
    for name, mine, other in zip(_names(ours), listed(ours), listed(theirs), strict=False):
        found = list(_differing(recipe, family, mine, other, (*path, *name)))
        if not found:
            continue
        yield from (one for one in found if (one.problem.path,) not in seen)
        seen |= {(one.problem.path,) for one in found}


def _names(stack: dict[str, Any]) -> list[tuple[str, ...]]:
    """Where the recipe of each layer is written, within the stack."""
    if not stack.get("layers"):
        return [("layer",)] * len(listed(stack))
    named = {**stack, "layers": {name: ("layers", name) for name in stack["layers"]}}
    return listed(named)


def _written(canonical: Mapping[str, Any], path: list[str]) -> tuple[tuple[str, ...], Any]:
    """Where a key is written whose path counts layers by number, and its value."""
    value: Any = canonical
    written: list[str] = []
    parts = iter(path)
    for part in parts:
        if part == "layers":
            stack, index = cast("dict[str, Any]", value), int(next(parts))
            written += _names(stack)[index]
            value = listed(stack)[index]
        else:
            written.append(part)
            value = cast("dict[str, Any]", value).get(part) if isinstance(value, Mapping) else None
    return tuple(written), value


def _obstacle(recipe: Recipe, path: tuple[str, ...], message: str, value: Any) -> Obstacle:
    mark = mark_of(recipe.tree, path)
    return Obstacle(Problem(mark if mark.line else Mark(recipe.name), ".".join(path), message), _leaves(value))


def _leaves(value: Any) -> int:
    inner = cast("dict[str, Any]", value).values() if isinstance(value, Mapping) else ()
    return max(1, sum(map(_leaves, inner)))


def _there(family: Family, value: Any) -> str:
    """What the family has in a place."""
    return f"{family.name} has none: leave it null" if value is None else f"{family.name} has {_kind(value)}"


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(cast("dict[str, Any]", value).get("type"))
    return value if isinstance(value, str) else quoted(value)
