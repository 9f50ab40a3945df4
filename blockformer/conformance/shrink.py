"""Shrink a recipe that fails a check to the keys that make it fail."""

from collections.abc import Callable, Iterator
from typing import Any, cast

from blockformer.conformance.block_case import SMALL, BlockCase, NotApplicable
from blockformer.conformance.recipe_checks import checks_of_recipe
from blockformer.conformance.table import Check, check_name
from blockformer.conformance.validate import Tree, key_paths, validate, without
from registry import RecipeError


def shrink(tree: Tree, fails: Callable[[Tree], bool]) -> Tree:
    """The smallest recipe that still fails: keys removed, patterns replaced by one layer.

    Args:
        tree: a recipe that fails.
        fails: whether a recipe fails.
    """
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(tree):
            if candidate != tree and fails(candidate):
                tree, smaller = candidate, True
                break
    return tree


def fails_check(check: str) -> Callable[[Tree], bool]:
    """Whether a recipe is valid and fails this check; for ``validate``: whether validation itself crashes."""

    def fails(tree: Tree) -> bool:
        try:
            valid = validate(tree)
        except RecipeError:
            return False
        except Exception:
            return check == "validate"
        return any(_fails(c, valid.case) for c in checks_of_recipe(valid.case) if check_name(c) == check)

    return fails


def _fails(check: Check, case: BlockCase) -> bool:
    try:
        check(case)
    except NotApplicable:
        return False
    except Exception:
        return True
    return False


def _smaller(tree: Tree) -> Iterator[Tree]:
    """Recipes with less in them, those with much less first."""
    for path in key_paths(tree):
        node = _at(tree, path)
        if isinstance(node, dict) and "layers" in node:
            stack = cast("Tree", node)
            yield from (_put(tree, path, _uniform(stack, layer)) for layer in stack["layers"].values())
        if path[-1] not in ("type", "pattern", "first", "layers", *SMALL) and path[-2:-1] != ("layers",):
            yield without(tree, [path])


def _uniform(stack: Tree, layer: Any) -> Tree:
    """A stack of one kind of layer instead of a pattern."""
    kept = {key: value for key, value in stack.items() if key not in ("layers", "first", "pattern", "rest")}
    return kept | {"layer": layer, "depth": 2}


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _put(tree: Tree, path: tuple[str, ...], value: Any) -> Tree:
    key, *rest = path
    return {**tree, key: _put(tree[key], tuple(rest), value) if rest else value}
