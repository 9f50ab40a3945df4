"""From a Hugging Face folder to a recipe and its parameters."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from blockformer.assembly.builder import check
from blockformer.huggingface.config import Config, read_config
from blockformer.huggingface.errors import InterchangeError
from blockformer.huggingface.family import Family, as_list
from blockformer.huggingface.library import family_of, load_family
from blockformer.huggingface.reading import read_parameters
from blockformer.huggingface.rules import names_of, rules_of
from blockformer.huggingface.template import Filling
from blockformer.huggingface.tensor_files import TensorFiles
from registry import Mark, Problem, Recipe, RecipeError, load_recipe
from registry.strict_yaml import Map, mark_of

ANY = "*"  # as a fixed value: every value will do


@dataclass(frozen=True)
class Imported:
    """A folder as this project sees it.

    Attributes:
        folder: where it came from.
        family: what read it.
        recipe: the model.
        parameters: of the model, by name, in the type in which they were stored.
        tokens: ids of special tokens, by their key in the config.
    """

    folder: Path
    family: Family
    recipe: Recipe
    parameters: Mapping[str, Tensor]
    tokens: Mapping[str, Any]


def read_folder(folder: str | Path, family: str | Path | None = None) -> Imported:
    """Read a Hugging Face folder.

    Args:
        folder: with config.json and safetensors, whole or in parts with an index.
        family: a family file, or the name of an installed family; None: the one that reads this model_type.

    Raises:
        InterchangeError: no family reads it, or something in it was not understood: every such config key and tensor is
            named.
    """
    folder = Path(folder)
    file = folder / "config.json"
    values = read_config(file)
    chosen = family_of(values, file, None if family is None else [load_family(family)])
    stored = TensorFiles(folder)
    filling = Filling(chosen, Config(values), {"tensors": frozenset(stored)})
    problems = list(_unfit(filling, file))
    if problems:
        raise InterchangeError(problems)
    recipe = recipe_of(filling)
    problems += unread(filling, file)
    shapes = {name: tuple(tensor.shape) for name, tensor in check(recipe).state_dict().items()}
    reading = read_parameters(rules_of(filling), names_of(filling), stored, shapes)
    problems += [Problem(Mark(str(folder)), "", message) for message in reading.problems]
    if problems:
        raise InterchangeError(problems)
    tokens = {key: value for key, value in values.items() if key.endswith("_token_id") and value is not None}
    return Imported(folder, chosen, recipe, reading.parameters, tokens)


def recipe_of(filling: Filling) -> Recipe:
    """The recipe that a family makes of a config, checked.

    Raises:
        InterchangeError: the family makes a recipe of it that is wrong; the lines are those of the family file.
    """
    section = filling.family.section("recipe")
    filled = filling.fill(section, "recipe", section.mark or Mark(str(filling.family.path)))
    try:
        recipe = load_recipe(cast("dict[str, Any]", _unwatched(filled)))
        # a family says what any of its models needs, so some of it may change nothing in this one
        recipe = replace(recipe, name=filling.family.name, source=str(filling.family.path))
        check(recipe)
    except RecipeError as error:
        raise InterchangeError(_in_family(section, problem) for problem in error.problems) from None
    return recipe


def unread(filling: Filling, file: Path) -> Iterator[Problem]:
    """A problem for every config key that nothing in the family mentions."""
    family, config = filling.family, filling.config
    config.read.update(key for key in family.keys if not isinstance(config.get(key), Mapping))
    config.read.update(("model_type", "architectures"))
    for key in config.unread():
        if not family.ignores(key) and not family.ignores(key.partition(".")[0]):
            message = f"nothing in family {family.name!r} reads this key; it may change the model"
            yield Problem(Mark(str(file)), key, message)


def _unfit(filling: Filling, file: Path) -> Iterator[Problem]:
    """A problem for every value that the family does not handle."""
    family, config, mark = filling.family, filling.config, Mark(str(file))
    for key, allowed in family.section("fixed").items():
        if allowed != ANY and key in config and config[key] not in (known := as_list(allowed) or [None]):
            wish = " or ".join(map(str, known))
            yield Problem(mark, key, f"is {config[key]}, but family {family.name!r} handles only {wish}")
    require = family.section("require")
    for text, message in require.items():
        if message is not None and not filling.computed(text, "require", require.marks[text]):
            yield Problem(mark, "", f"{message} ({text} does not hold)")


def _in_family(section: Map, problem: Problem) -> Problem:
    """A problem of a filled-in recipe, at the line of the family file that wrote it."""
    path, parts = list[str | int](), iter(problem.path.split("."))
    for part in parts:
        if part == "layers":  # the family writes one layer for all, and no names
            next(parts, None)
            part = "layer"
        path.append(int(part) if part.isdigit() else part)
    return Problem(mark_of(section, path), f"recipe.{problem.path}", problem.message)


def _unwatched(value: Any) -> Any:
    """Parts of the config that became parts of the recipe, as plain mappings."""
    if isinstance(value, Mapping):
        return {key: _unwatched(item) for key, item in cast("Mapping[str, Any]", value).items()}
    return [_unwatched(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value
