"""A model with its weights, from what an import or a training run has left."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from blocks.assembly import check
from blocks.models.base import Model
from registry import Recipe
from registry import load as load_recipe

RECIPE, WEIGHTS = "recipe.yaml", "model.safetensors"
METADATA, PREFIX = "blockformer", "model."  # of a training checkpoint: where its recipe stands, and its model's weights


class LoadError(ValueError):
    """There is no model here; the message is one line and names the file."""


def load(path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Model:
    """The model of an imported folder or of a checkpoint, with its weights, in evaluation mode.

    Args:
        path: a folder that ``blockformer import`` wrote, or a checkpoint that ``blockformer fit`` wrote.
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
    path = Path(path)
    source, weights = _folder(path) if path.is_dir() else _checkpoint(path)
    recipe = load_recipe(source)
    model = check(recipe)
    try:
        model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in weights.items()}, assign=True)
    except RuntimeError as error:
        raise LoadError(f"{path}: its weights do not fit its recipe: {' '.join(str(error).split())[:300]}") from None
    return recipe, model.eval()


def _folder(path: Path) -> tuple[Path, Mapping[str, Tensor]]:
    for name in (RECIPE, WEIGHTS):
        if not (path / name).is_file():
            hint = "; a folder with a config.json must first be imported: blockformer import"
            raise LoadError(f"{path}: has no {name}{hint if (path / 'config.json').is_file() else ''}")
    try:
        return path / RECIPE, load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{path / WEIGHTS}: cannot be read: {error}") from None


def _checkpoint(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        raise LoadError(f"{path}: is neither a folder nor a checkpoint of plain tensors") from None
    if not isinstance(content, dict) or METADATA not in content:
        raise LoadError(f"{path}: is not a checkpoint of blockformer")
    held = cast("dict[str, Any]", content)
    state = cast("dict[str, Tensor]", held["state_dict"])
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    return held[METADATA]["recipe"], weights
