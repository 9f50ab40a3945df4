"""The smallest recipe that still fails."""

from collections.abc import Callable, Iterator
from typing import Any, cast

from blockformer.conformance.admitting import Tree, admit, steps, without
from blockformer.conformance.judging import applying, failing, named
from blockformer.conformance.subject import SMALL
from registry import RecipeError


def smallest(tree: Tree, fails: Callable[[Tree], bool]) -> Tree:
    """Drop keys, take layers out of patterns and blocks without what is said of them, while it still fails.

    Args:
        tree: a recipe that fails.
        fails: whether a recipe still does.
    """
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(tree):
            if candidate != tree and fails(candidate):
                tree, smaller = candidate, True
                break
    return tree


def fails_at(check: str) -> Callable[[Tree], bool]:
    """Whether a recipe is accepted and then fails this check; ``admit``: whether it is neither accepted nor refused."""

    def fails(tree: Tree) -> bool:
        try:
            admitted = admit(tree)
        except RecipeError:
            return False
        except Exception:
            return check == "admit"
        return any(failing(c, admitted.subject) for c in applying(admitted.subject) if named(c) == check)

    return fails


def _smaller(tree: Tree) -> Iterator[Tree]:
    """Recipes that say less, those that say much less first."""
    for path in steps(tree):
        node = _at(tree, path)
        if isinstance(node, dict) and "layers" in node:
            stack = cast("Tree", node)
            yield from (_put(tree, path, _uniform(stack, layer)) for layer in stack["layers"].values())
        if path[-1] not in ("type", "pattern", "first", "layers", *SMALL) and path[-2:-1] != ("layers",):
            yield without(tree, [path])


def _uniform(stack: Tree, layer: Any) -> Tree:
    """A stack with one layer for all instead of a pattern."""
    kept = {key: value for key, value in stack.items() if key not in ("layers", "first", "pattern", "rest")}
    return kept | {"layer": layer, "depth": 2}


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _put(tree: Tree, path: tuple[str, ...], value: Any) -> Tree:
    key, *rest = path
    return {**tree, key: _put(tree[key], tuple(rest), value) if rest else value}
