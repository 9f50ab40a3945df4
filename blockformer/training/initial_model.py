"""The trained model that a run begins with."""

from pathlib import Path
from typing import Any

from blockformer.assembly.checkpoint import LoadError, checkpoint_of, read_metadata
from blockformer.assembly.loading import load_checkpoint, parts, read
from blockformer.errors import UserError
from blocks.models.base import Model
from registry import Recipe, RecipeError, load_recipe


def verify(source: Path) -> None:
    """Refuse what :func:`read_model` could not read, before anything else is done.

    Raises:
        UserError: there is no model, or it is damaged or foreign.
    """
    place = _place(source)
    try:
        if place.is_dir():
            parts(place)
        else:
            read_metadata(place)
    except LoadError as error:
        raise UserError(str(error)) from error


def read_model(source: Path) -> tuple[Model, Recipe, dict[str, Any]]:
    """A trained model, its recipe, and what else is known about it.

    Args:
        source: an imported folder, a checkpoint, or a run's folder, of which the best or else the last is meant.

    Raises:
        UserError: it cannot be read, or its recipe is not valid here.
    """
    place = _place(source)
    try:
        if place.is_dir():
            recipe, model = read(place)
            return model, recipe, {}
        model, metadata = load_checkpoint(place)
        return model, load_recipe(metadata["recipe"]), metadata
    except LoadError as error:
        raise UserError(str(error)) from error
    except RecipeError as error:
        raise UserError(f"{source}: its recipe is not valid here: {error.problems[0]}") from error


def _place(source: Path) -> Path:
    return (checkpoint_of(source) or source) if source.is_dir() else source
