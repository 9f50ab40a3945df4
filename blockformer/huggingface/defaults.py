"""Write out what a recipe leaves open: a null for which a block computes a number is that number."""

from typing import Any, cast

from blockformer.assembly.builder import check
from registry import Recipe, Spec, load_recipe, spec_of


def resolved(recipe: Recipe) -> Recipe:
    """The same model with the numbers in place of nulls, such as ``kv_heads: 4`` where that is the number of heads.

    Raises:
        RecipeError: blocks do not fit each other.
    """
    computed: dict[int, dict[str, int]] = {}
    for _, component in check(recipe).components():
        spec = spec_of(component)
        if spec is not None:
            open_keys = (key for key, value in spec.params if value is None)
            numbers = {key: getattr(component, key, None) for key in open_keys}
            computed[id(spec)] = {key: value for key, value in numbers.items() if type(value) is int}
    return Recipe(recipe.name, load_recipe(_filled(recipe.spec, computed)).spec, recipe.tree)


def _filled(spec: Spec[Any], computed: dict[int, dict[str, int]]) -> dict[str, Any]:
    whole = spec.dump() | computed.get(id(spec), {})
    for path, child in spec.children():
        inner: Any = whole
        for key in path[:-1]:
            inner = inner[key]
        cast("dict[Any, Any]", inner)[path[-1]] = _filled(child, computed)
    return whole
