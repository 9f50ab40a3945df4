"""From a recipe to the config of a family, or to the reasons why it has none."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from blockformer.huggingface.config import Config
from blockformer.huggingface.config_solver import Solver
from blockformer.huggingface.defaults import resolved
from blockformer.huggingface.errors import InexpressibleError, InterchangeError
from blockformer.huggingface.export_errors import NearestSolver, Obstacle, differing, failing
from blockformer.huggingface.family import Family, as_list
from blockformer.huggingface.importing import ANY, recipe_of
from blockformer.huggingface.keys import ConflictError, Keys
from blockformer.huggingface.layer_pattern import listed
from blockformer.huggingface.library import families
from blockformer.huggingface.template import Filling
from registry import Mark, Problem, Recipe, RecipeError

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")  # classes assume some that may not exist


def config_of(recipe: Recipe, family: Family) -> dict[str, Any]:
    """The config that a family turns into a recipe.

    Args:
        recipe: the model; what matters only in training (dropout, initial values) may be anything.
        family: whose config it shall be.

    Raises:
        InexpressibleError: there is none; the keys of the recipe that stand in the way are named.
    """
    written = resolved(recipe)
    try:
        return _config(recipe, written, family)
    except ConflictError as conflict:
        found = obstacles(written, family)
        problems = [obstacle.problem for obstacle in found] or [Problem(Mark(recipe.name), "", str(conflict))]
        raise InexpressibleError(problems) from None


def family_for(recipe: Recipe) -> tuple[Family, dict[str, Any]]:
    """The family that can say a recipe, and its config; of several one that builds on few, and then the shortest.

    Raises:
        InexpressibleError: none can; what stands in the way of the nearest is named.
    """
    written, able = resolved(recipe), list[tuple[Family, dict[str, Any]]]()
    for family in families():
        with suppress(ConflictError):
            able.append((family, _config(recipe, written, family)))
    if able:
        return min(able, key=lambda pair: (len(pair[0].bases), len(pair[1])))
    found = [(family, obstacles(written, family)) for family in families()]
    _, nearest = min(found, key=lambda pair: (sum(one.weight for one in pair[1]), len(pair[0].bases)))
    raise InexpressibleError(obstacle.problem for obstacle in nearest)


def obstacles(recipe: Recipe, family: Family) -> list[Obstacle]:
    """What stands in the way of saying a recipe, its nulls written out, as one of a family; nothing if it can be."""
    canonical = recipe.dump()
    try:
        given = _given(family, canonical)
    except ConflictError:
        given = Keys()
    solver = NearestSolver(family, given)
    try:
        config = _fixed(family) | solver.solve(canonical)
        nearest = recipe_of(Filling(family, Config(config), {"tensors": frozenset[str]()}))
    except ConflictError as conflict:
        return list(failing(recipe, family, {"": conflict}))
    except RecipeError:
        return list(failing(recipe, family, dict(solver.failed)))
    return list(differing(recipe, resolved(nearest), family))


def _config(recipe: Recipe, written: Recipe, family: Family) -> dict[str, Any]:
    """The config that a family turns into a recipe, as it stands or with its nulls written out.

    Raises:
        ConflictError: there is none.
    """
    with suppress(ConflictError):
        return _solved(recipe, written, family)
    return _solved(written, written, family)


def _solved(recipe: Recipe, written: Recipe, family: Family) -> dict[str, Any]:
    canonical = recipe.dump()
    config = _fixed(family) | Solver(family, _given(family, canonical)).solve(canonical)
    assumed = _read_back(written, family, config)
    config = _as_usual(written, family, config) | {key: value for key, value in assumed.items() if value is not None}
    usual = family.section("defaults")
    return {
        key: value for key, value in config.items() if value is not None or usual.get(key) is not None or key in TOKENS
    }


def _fixed(family: Family) -> dict[str, Any]:
    """What every config of a family says."""
    fixed = {key: (as_list(value) or [None])[0] for key, value in family.section("fixed").items() if value != ANY}
    kept = {key: value for key, value in fixed.items() if value not in (None, {})}
    about = {"architectures": family.architectures[:1], "model_type": family.models[0]}
    return about | kept | dict.fromkeys(TOKENS)


def _given(family: Family, recipe: Mapping[str, Any]) -> Keys:
    """Keys whose value the family's ``export`` says, as expressions over the recipe and its layers.

    Raises:
        ConflictError: an expression does not fit the recipe.
    """
    keys, section = Keys(), family.section("export")
    stack = cast("dict[str, Any]", recipe.get("decoder") or recipe.get("encoder"))
    filling = Filling(family, Config({}), {"recipe": recipe, "layers": listed(stack)}, defaults=False)
    for key in section:
        try:
            value = filling.fill(section[key], f"export.{key}", section.marks[key])
        except InterchangeError as error:
            raise ConflictError(str(error.problems[0])) from None
        if isinstance(value, str | int | float | list | dict | None):
            keys.find((key,), value)
    return keys


def _read_back(recipe: Recipe, family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read a config forwards; return the defaults that this took.

    Raises:
        ConflictError: it gives none, or another recipe.
    """
    filling = Filling(family, Config(config), {"tensors": frozenset[str]()})
    try:
        again = recipe_of(filling)
    except RecipeError as error:
        raise ConflictError(str(error.problems[0])) from None
    for obstacle in differing(recipe, resolved(again), family):
        raise ConflictError(str(obstacle.problem))
    return filling.assumed


def _as_usual(recipe: Recipe, family: Family, config: dict[str, Any]) -> dict[str, Any]:
    """With the family's own word for what several words mean, such as names of activations."""
    usual = family.section("defaults")
    for key, value in list(config.items()):
        if isinstance(value, str) and isinstance(usual.get(key), str) and value != usual[key]:
            try:
                _read_back(recipe, family, {**config, key: usual[key]})
            except ConflictError:
                continue
            config[key] = usual[key]
    return config
