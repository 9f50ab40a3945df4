"""Validate a generated recipe as a user's would be: write it as YAML, load it, build it on the meta device."""

import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import yaml

from blockformer.assembly.builder import check, keys_without_effect
from blockformer.conformance.block_case import MODEL_PLACES, BlockCase
from blockformer.conformance.grammar import Choice, built_from, choices_of
from registry import RecipeError, load_recipe

Tree = dict[str, Any]
REPAIRS = 8
UNUSED = "a key changes nothing there"


@dataclass(frozen=True)
class ValidRecipe:
    """A valid recipe without unused keys.

    Attributes:
        tree: the recipe as a mapping.
        choices: all choices that it makes for the blocks that are built.
        case: the recipe as an argument of the checks.
    """

    tree: Tree
    choices: frozenset[Choice]
    case: BlockCase


def validate(tree: Tree, label: str = "") -> ValidRecipe:
    """Write a recipe as YAML, load it, and build it on the meta device.

    Raises:
        RecipeError: the recipe is refused.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(as_yaml(tree), encoding="utf-8")
        recipe = load_recipe(path)
    model = check(recipe)
    params = {key: _frozen(value) for key, value in tree.items() if key != "type"}
    case = BlockCase("model", tree["type"], params, MODEL_PLACES[model.kind], label)
    return ValidRecipe(tree, choices_of(recipe.spec, built_from(model)), case)


def repair(tree: Tree, refusals: list[str], wanted: Iterable[Choice] = ()) -> ValidRecipe | None:
    """The recipe without the keys that errors name, once it is valid.

    Args:
        tree: a recipe.
        refusals: a list to which the reasons of refusals are added.
        wanted: choices that the recipe must keep.

    Returns:
        None if removing keys does not make the recipe valid, or removes a wanted choice.
    """
    wanted = frozenset(wanted)
    for _ in range(REPAIRS):
        try:
            recipe = load_recipe(tree)
            if not wanted <= choices_of(recipe.spec):
                return None
            if not (paths := keys_without_effect(recipe)):
                found = validate(tree)
                return found if wanted <= found.choices else None
            refusals.append(UNUSED)
        except RecipeError as error:
            refusals += [reason(problem.message) for problem in error.problems]
            paths = [tuple(problem.path.split(".")) for problem in error.problems]
        changed = without(tree, [path for path in paths if len(path) > 1])
        if changed == tree:
            return None
        tree = changed
    return None


def reason(message: str) -> str:
    """An error message without numbers and paths, so that refusals of different recipes can be counted."""
    message = re.sub(r" \([a-z_.]+\)", "", message)
    message = re.sub(r"'(en|de)coder\.[a-z_.]+'", "...", message)
    return re.sub(r"(?<![\w.])\d+(\.\d+)?", "N", message)


def as_yaml(tree: Tree) -> str:
    """The recipe as the text of a file."""
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=False)


def without(tree: Tree, paths: list[tuple[Any, ...]]) -> Tree:
    """The recipe without the keys at ``paths``."""
    tree = deepcopy(tree)
    for *parents, key in paths:
        node: Any = tree
        for parent in parents:
            node = cast("Tree", node).get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and parents[-1:] == ["layers"]:
            node[key] = {}  # the layer itself stays, because the pattern names it
        elif isinstance(node, dict):
            cast("Tree", node).pop(key, None)
    return tree


def key_paths(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key, outer keys before inner ones."""
    if isinstance(tree, dict):
        for key, value in cast("Tree", tree).items():
            yield (*path, key)
            yield from key_paths(value, (*path, key))


def _frozen(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _frozen(value) for key, value in cast("Tree", tree).items()}
    return tuple(_frozen(item) for item in cast("list[Any]", tree)) if isinstance(tree, list) else tree
