"""Load a model with its weights from an imported folder, a run's folder or a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from blockformer.assembly.builder import check, materialise
from blockformer.assembly.checkpoint import METADATA, LoadError, checkpoint_of, read_metadata, weights_of
from blockformer.assembly.checkpoint import read as read_checkpoint
from blocks.models.base import Model
from registry import Recipe, RecipeError, load_recipe

RECIPE, WEIGHTS = "recipe.yaml", "model.safetensors"

__all__ = ["LoadError", "load", "load_checkpoint", "parts", "read", "read_metadata", "with_weights"]


def load(path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Model:
    """The model of an imported folder or of a checkpoint, with its weights, in evaluation mode.

    Args:
        path: a folder that ``blockformer import`` wrote, or a checkpoint that ``blockformer fit`` wrote, or a run's
            folder, of which the best or else the last checkpoint is meant.
        device: where the parameters shall be.
        dtype: of the parameters; None: as they are stored.

    Raises:
        LoadError: there is no such thing, it is damaged, or its weights do not fit its recipe.
        RecipeError: its recipe is wrong.
    """
    return read(path, device=device, dtype=dtype)[1]


def read(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[Recipe, Model]:
    """The recipe as well as the model; otherwise like :func:`load`."""
    source, weights = parts(path)
    recipe = load_recipe(source)
    try:
        return recipe, with_weights(recipe, weights, device=device, dtype=dtype)
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from None


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """The model of a checkpoint and what else the checkpoint says.

    Args:
        path: a checkpoint that ``blockformer fit`` wrote.
        device: where the model shall be.

    Returns:
        The model, in float32 and in evaluation mode, and the checkpoint's metadata: ``recipe``, ``kind``,
        ``objective``, ``tokenizer`` (as ``Tokenizer.dump`` gave it), ``data``, ``step``, ``tokens``, ``evaluation`` and
        more, see :func:`blockformer.training.metadata.describe`.

    Raises:
        LoadError: there is no such file, it is damaged, or it is no checkpoint of this project.
    """
    content = read_checkpoint(path)
    metadata = content[METADATA]
    try:
        recipe = load_recipe(metadata["recipe"])
        return with_weights(recipe, weights_of(content), device=device, dtype=torch.float32), metadata
    except RecipeError as error:
        plugins = metadata.get("plugins")
        hint = f" (it was trained with --plugin {' --plugin '.join(plugins)})" if plugins else ""
        raise LoadError(f"{path}: its recipe is not valid here: {error.problems[0]}{hint}") from error
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from error


def with_weights(
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Model:
    """A recipe's model with the given weights, in evaluation mode; other arguments as of :func:`load`.

    Raises:
        LoadError: the weights are those of another model.
    """
    model = check(recipe)
    try:
        model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in weights.items()}, assign=True)
    except RuntimeError as error:
        raise LoadError(f"its weights do not fit its recipe: {' '.join(str(error).split())[:300]}") from None
    materialise(model, device)
    return model.eval()


def parts(path: str | Path) -> tuple[Path | Mapping[str, Any], Mapping[str, Tensor]]:
    """The recipe and the weights of what :func:`load` reads, not checked yet.

    Raises:
        LoadError: as for :func:`load`.
    """
    path = Path(path)
    return _folder(path) if path.is_dir() else _checkpoint(path)


def _folder(path: Path) -> tuple[Path | Mapping[str, Any], Mapping[str, Tensor]]:
    if (checkpoint := checkpoint_of(path)) is not None:
        return _checkpoint(checkpoint)
    for name in (RECIPE, WEIGHTS):
        if not (path / name).is_file():
            hint = "; a folder with a config.json must first be imported: blockformer import"
            raise LoadError(f"{path}: has no {name}{hint if (path / 'config.json').is_file() else ''}")
    try:
        return path / RECIPE, load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{path / WEIGHTS}: cannot be read: {error}") from None


def _checkpoint(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    content = read_checkpoint(path, mmap=True)
    return content[METADATA]["recipe"], weights_of(content)
