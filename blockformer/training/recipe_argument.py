"""The recipe as one opaque value for jsonargparse."""

from collections.abc import Mapping
from typing import Any

from jsonargparse.typing import register_type

from blockformer.assembly.builder import build_unchecked, check
from blocks.models.base import Model
from registry import Recipe


class RecipeArgument:
    """A checked recipe and its model on the meta device, opaque to jsonargparse.

    A parser that looked inside would merge overrides by rules of its own, and could silently train another model than
    the one asked for. So a recipe is loaded and checked before the parser runs, once, and this object is handed on.

    Args:
        recipe: a loaded recipe.

    Raises:
        RecipeError: blocks do not fit each other, or keys change nothing.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model = check(recipe)
        self._taken = False

    def take_model(self) -> Model:
        """The checked model, without parameters, for one training module; a second module gets a model of its own."""
        if self._taken:
            return build_unchecked(self.recipe)
        self._taken = True
        return self.model

    def dump(self) -> Mapping[str, Any]:
        """The canonical recipe as plain data."""
        return self.recipe.dump()

    def __deepcopy__(self, memo: object) -> "RecipeArgument":
        """The same object: jsonargparse copies its values, and a copy of the model would not be the checked one."""
        return self


def _only_objects(value: object) -> RecipeArgument:
    raise ValueError(f"{value!r} is not a loaded recipe")


register_type(RecipeArgument, serializer=RecipeArgument.dump, deserializer=_only_objects)
