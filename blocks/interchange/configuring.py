"""From a recipe to the config of a family, or to the reasons why it has none."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from blocks.interchange.config import Config
from blocks.interchange.errors import InterchangeError
from blocks.interchange.family import Family, as_list
from blocks.interchange.filling import Filling
from blocks.interchange.importing import ANY, recipe_of
from blocks.interchange.keys import ConflictError, Keys
from blocks.interchange.layout import listed
from blocks.interchange.library import families
from blocks.interchange.solving import Solver
from registry import Mark, Problem, Recipe, RecipeError

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")  # classes assume some that may not exist
LAID_OUT = frozenset({"layer", "layers", "first", "pattern", "rest"})  # how a stack's layers are written


def config_of(recipe: Recipe, family: Family) -> dict[str, Any]:
    """The config that a family turns into a recipe.

    Args:
        recipe: the model.
        family: whose config it shall be.

    Raises:
        InterchangeError: there is none; the keys of the recipe that stand in the way are named.
    """
    try:
        return _config(recipe, family)
    except ConflictError as conflict:
        raise InterchangeError.at(recipe.name, f"is no {family.name}: {conflict}") from None


def family_for(recipe: Recipe) -> tuple[Family, dict[str, Any]]:
    """The family that can say a recipe, and its config; one that others build on comes first.

    Raises:
        InterchangeError: none can; what stands in the way of the nearest is named.
    """
    refusals: list[InterchangeError] = []
    for family in sorted(families(), key=lambda family: len(family.bases)):
        try:
            return family, _config(recipe, family)
        except ConflictError:
            continue
        except InterchangeError as error:
            refusals.append(error)
    if refusals:
        raise min(refusals, key=lambda error: len(error.problems))
    raise InterchangeError.at(recipe.name, "no family comes near this recipe")


def _config(recipe: Recipe, family: Family) -> dict[str, Any]:
    """The config that a family turns into a recipe.

    Raises:
        ConflictError: a template cannot give its part of the recipe.
        InterchangeError: they can, but parts of the recipe have none.
    """
    canonical = recipe.dump()
    config = _fixed(family) | Solver(family, _given(family, canonical)).solve(canonical)
    assumed = _read_back(recipe, family, config)
    config = _as_usual(recipe, family, config) | {key: value for key, value in assumed.items() if value is not None}
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
        ConflictError: it gives none.
        InterchangeError: it gives another recipe.
    """
    filling = Filling(family, Config(config), {"tensors": frozenset[str]()})
    try:
        again = recipe_of(filling)
    except RecipeError as error:
        raise ConflictError(str(error.problems[0])) from None
    if differences := list(_differences(family, recipe, again)):
        raise InterchangeError(differences)
    return filling.assumed


def _as_usual(recipe: Recipe, family: Family, config: dict[str, Any]) -> dict[str, Any]:
    """With the family's own word for what several words mean, such as names of activations."""
    usual = family.section("defaults")
    for key, value in list(config.items()):
        if isinstance(value, str) and isinstance(usual.get(key), str) and value != usual[key]:
            try:
                _read_back(recipe, family, {**config, key: usual[key]})
            except (ConflictError, InterchangeError):
                continue
            config[key] = usual[key]
    return config


def _differences(family: Family, recipe: Recipe, again: Recipe) -> Iterator[Problem]:
    """A problem for every key of the recipe that the family cannot say."""
    ours, theirs = dict(_flat(recipe.spec.identity())), dict(_flat(again.spec.identity()))
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key):
            message = f"is {ours.get(key)}, but family {family.name!r} can only say {theirs.get(key)}"
            yield Problem(Mark(recipe.name), key, message)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its path; of a stack, layer by layer, whatever they are called."""
    if not isinstance(value, Mapping):
        yield path.removeprefix("."), value
        return
    block = cast("dict[str, Any]", value)
    if "depth" in block and "layer" in block:
        for index, layer in enumerate(listed(block)):
            yield from _flat(layer, f"{path}.layers.{index}")
        block = {key: item for key, item in block.items() if key not in LAID_OUT}
    for key, item in block.items():
        yield from _flat(item, f"{path}.{key}")
