"""Leave out the extra predictions of a model, which serve training only."""

from torch import nn

from blocks.models.base import Model
from registry import Recipe, load_recipe, spec_of

EXTRA = "extra_predictions"  # the parameter of models that names them


def drop_extra_predictions(model: Model) -> int:
    """Take the extra predictions out of a model, in place; its outputs stay the same.

    Returns:
        How many it had.
    """
    found = len(getattr(model, EXTRA, ()))
    spec = spec_of(model)
    if found:
        setattr(model, EXTRA, nn.ModuleList())
        if spec is not None:
            model._spec = spec.but(**{EXTRA: ()})
    return found


def without_extra_predictions(recipe: Recipe) -> Recipe:
    """The recipe of a model without them: the same if it has none."""
    content = recipe.dump()
    return load_recipe(content | {EXTRA: []}) if content.get(EXTRA) else recipe
