"""The recipe as the command line's parser sees it: one value that it does not look into."""

import json
from collections.abc import Mapping
from typing import Any

from registry import Recipe, load_recipe


class RecipeArgument:
    """A checked recipe, opaque to jsonargparse.

    A parser that looked inside would merge overrides by rules of its own, and could train another model than was asked
    for without a word. So everything about recipes is decided before it runs, and this is handed through.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @classmethod
    def read(cls, value: Any) -> "RecipeArgument":
        """From another one, a mapping, a path, a name, or a mapping as JSON.

        Raises:
            RecipeError: something is wrong with the recipe.
        """
        if isinstance(value, RecipeArgument):
            return value
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = json.loads(value)
        return cls(load_recipe(value))

    def dump(self) -> Mapping[str, Any]:
        """The canonical recipe as plain data."""
        return self.recipe.dump()
