"""Fold adapters into the weights of their projections."""

from blocks.models.base import Model
from registry import Recipe, load_recipe, spec_of

ADAPTERS = "adapters"  # the parameter of models that names them


def merge(model: Model) -> list[str]:
    """Fold every adapter into the weight of its projection, in place: a model of the recipe without them.

    The outputs stay the same up to rounding: each weight is computed in float32 or wider and rounded once.

    Args:
        model: a model that computes on one device; one without adapters stays as it is.

    Returns:
        Names of the projections that had an adapter.
    """
    merged = [name for name, projection in model.projections.items() if projection.adapter is not None]
    for name in merged:
        model.projections[name].merge()
    spec = spec_of(model)
    if merged and spec is not None and ADAPTERS in spec.entry.parameters:
        model._spec = spec.but(**{ADAPTERS: None})
    return merged


def without_adapters(recipe: Recipe) -> Recipe:
    """The recipe of a merged model: the same if it has no adapters."""
    content = recipe.dump()
    return load_recipe(content | {ADAPTERS: None}) if content.get(ADAPTERS) else recipe
