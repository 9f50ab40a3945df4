"""A drawn recipe at the front door: written as YAML, read, checked; accepted, or refused in words."""

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import yaml

from blockformer.assembly.builder import check, idle
from blockformer.conformance.choices import Choice, built_from, said
from blockformer.conformance.subject import MODEL_PLACES, Subject
from registry import Recipe, RecipeError, load_recipe

Tree = dict[str, Any]
ROUNDS = 8
IDLE = "a key changes nothing where it is said"


@dataclass(frozen=True)
class Admitted:
    """A recipe that was accepted, with nothing in it that its model has no use for.

    Attributes:
        tree: the recipe as a mapping.
        said: all that it says of the blocks that are built.
        subject: what the checks take.
    """

    tree: Tree
    said: frozenset[Choice]
    subject: Subject


def admit(tree: Tree, label: str = "") -> Admitted:
    """Write a recipe down, read it, and build it on the meta device.

    Raises:
        RecipeError: it is refused.
    """
    recipe = _read(tree)
    model = check(recipe)
    params = {key: _frozen(value) for key, value in tree.items() if key != "type"}
    subject = Subject("model", tree["type"], params, MODEL_PLACES[model.kind], label)
    return Admitted(tree, said(recipe.spec, built_from(model)), subject)


def mended(tree: Tree, refusals: list[str]) -> Admitted | None:
    """What is left of a recipe once all keys that it is refused for are dropped; None if that does not help.

    Args:
        tree: the recipe.
        refusals: the reasons are added to it.
    """
    for _ in range(ROUNDS):
        try:
            recipe = _read(tree)
            if not (paths := idle(recipe)):
                return admit(tree)
            refusals.append(IDLE)
        except RecipeError as error:
            refusals += [reason(problem.message) for problem in error.problems]
            paths = [tuple(problem.path.split(".")) for problem in error.problems]
        changed = without(tree, [path for path in paths if len(path) > 1])
        if changed == tree:
            return None
        tree = changed
    return None


def _read(tree: Tree) -> Recipe:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(as_yaml(tree), encoding="utf-8")
        return load_recipe(path)


def reason(message: str) -> str:
    """A refusal without what is particular to one recipe: numbers, and where in the recipe it is."""
    message = re.sub(r" \([a-z_.]+\)", "", message)
    message = re.sub(r"'(en|de)coder\.[a-z_.]+'", "...", message)
    return re.sub(r"(?<![\w.])\d+(\.\d+)?", "N", message)


def as_yaml(tree: Tree) -> str:
    """The recipe as a file would have it."""
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=False)


def without(tree: Tree, paths: list[tuple[Any, ...]]) -> Tree:
    """The recipe with the keys at ``paths``, where it says them, left out."""
    tree = deepcopy(tree)
    for *parents, key in paths:
        node: Any = tree
        for parent in parents:
            node = cast("Tree", node).get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and parents[-1:] == ["layers"]:
            node[key] = {}  # the pattern names it
        elif isinstance(node, dict):
            cast("Tree", node).pop(key, None)
    return tree


def steps(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key, the outer before the inner."""
    if isinstance(tree, dict):
        for key, value in cast("Tree", tree).items():
            yield (*path, key)
            yield from steps(value, (*path, key))


def _frozen(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _frozen(value) for key, value in cast("Tree", tree).items()}
    return tuple(_frozen(item) for item in cast("list[Any]", tree)) if isinstance(tree, list) else tree
