"""Load a model with its weights from an imported folder, a run's folder or a checkpoint file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockformer.assembly.builder import check, materialise
from blockformer.assembly.checkpoint import (
    METADATA,
    LoadError,
    checkpoint_in,
    model_weights,
    read_checkpoint,
    read_metadata,
)
from blockformer.assembly.checkpoint_schema import short_name, tensor_problem
from blockformer.assembly.imported_folder import RECIPE, WEIGHTS, read_imported
from blocks.models.base import Model
from registry import Recipe, RecipeError, load_recipe

__all__ = [
    "RECIPE",
    "WEIGHTS",
    "LoadError",
    "build_with_weights",
    "load",
    "load_with_metadata",
    "load_with_recipe",
    "read_metadata",
    "recipe_and_weights",
    "stored_recipe",
]


def load(path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Model:
    """Load a model with its weights, in evaluation mode.

    Args:
        path: a folder that ``blockformer import`` wrote, a checkpoint that ``blockformer fit`` wrote, or a run's
            folder, whose best or else last checkpoint is loaded.
        device: device of the parameters.
        dtype: dtype of the parameters; None: as they are stored.

    Raises:
        LoadError: the file is missing or damaged, or its weights do not fit its recipe.
        RecipeError: its recipe is not valid.
    """
    return load_with_recipe(path, device=device, dtype=dtype)[1]


def load_with_recipe(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[Recipe, Model]:
    """Load the recipe and the model; otherwise like :func:`load`."""
    recipe, weights = recipe_and_weights(path)
    try:
        return recipe, build_with_weights(recipe, weights, device=device, dtype=dtype)
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from None


def load_with_metadata(path: str | Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """Load the model and the metadata of a checkpoint.

    Args:
        path: a checkpoint that ``blockformer fit`` wrote.
        device: device of the parameters.

    Returns:
        The model, in float32 and in evaluation mode, and the checkpoint's metadata: ``recipe``, ``kind``,
        ``objective``, ``tokenizer`` (as ``Tokenizer.dump`` gave it), ``data``, ``step``, ``tokens``, ``evaluation`` and
        more, see :func:`blockformer.training.metadata.run_metadata`.

    Raises:
        LoadError: the file is missing or damaged, or is not a checkpoint of this project.
    """
    content = read_checkpoint(path)
    recipe = stored_recipe(path, content[METADATA])
    try:
        model = build_with_weights(recipe, model_weights(content), device=device, dtype=torch.float32)
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from error
    return model, content[METADATA]


def stored_recipe(path: str | Path, metadata: Mapping[str, Any]) -> Recipe:
    """The recipe in a checkpoint's metadata.

    Raises:
        LoadError: it is not valid in this version, or without the plug-ins that the run had.
    """
    try:
        return load_recipe(metadata["recipe"])
    except RecipeError as error:
        plugins = metadata.get("plugins")
        hint = f" (it was trained with --plugin {' --plugin '.join(plugins)})" if plugins else ""
        raise LoadError(f"{path}: its recipe is not valid in this installation: {error.problems[0]}{hint}") from error


def build_with_weights(
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Model:
    """Build a recipe's model with the given weights, in evaluation mode; other arguments as for :func:`load`.

    Raises:
        LoadError: the weights do not fit the recipe.
    """
    try:
        model = check(recipe)
    except RecipeError as error:
        raise LoadError(f"its recipe is not valid in this installation: {error.problems[0]}") from error
    if problem := next(mismatched_weights(model.state_dict(), weights), None):
        raise LoadError(f"the weights do not fit the recipe: {problem}")
    for name, tensor in weights.items():
        if problem := tensor_problem(tensor):
            raise LoadError(f"the weight {name} {problem}")
    model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in weights.items()}, assign=True)
    materialise(model, device)
    return model.eval()


def mismatched_weights(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[str]:
    """What keeps tensors from being the parameters of a model, without reading their values."""
    for name, like in wanted.items():
        if name not in found:
            yield f"{name} is missing"
        elif found[name].shape != like.shape:
            yield f"{name} has shape {tuple(found[name].shape)}, and the model's has {tuple(like.shape)}"
        elif found[name].is_floating_point() != like.is_floating_point():
            yield f"{name} is of {found[name].dtype}, and the model's of {like.dtype}"
    yield from (f"{short_name(name)} is not in the model" for name in found if name not in wanted)


def recipe_and_weights(path: str | Path) -> tuple[Recipe, Mapping[str, Tensor]]:
    """Read the recipe and the weights at ``path``, as :func:`load` does, but without comparing the two.

    Raises:
        LoadError: as for :func:`load`.
    """
    path = Path(path)
    return _folder(path) if path.is_dir() else _checkpoint(path)


def _folder(path: Path) -> tuple[Recipe, Mapping[str, Tensor]]:
    if (checkpoint := checkpoint_in(path)) is not None:
        return _checkpoint(checkpoint)
    for name in (RECIPE, WEIGHTS):
        if not (path / name).is_file():
            hint = "; a folder with a config.json must first be imported: blockformer import"
            raise LoadError(f"{path}: has no {name}{hint if (path / 'config.json').is_file() else ''}")
    weights = read_imported(path)  # first, as it compares the checksum of the recipe too
    return load_recipe(path / RECIPE), weights


def _checkpoint(path: Path) -> tuple[Recipe, Mapping[str, Tensor]]:
    content = read_checkpoint(path, mmap=True)
    return stored_recipe(path, content[METADATA]), model_weights(content)
