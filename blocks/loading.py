"""A model with its weights, from what an import or a training run has left."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from blocks.assembly import check
from blocks.models.base import Model
from registry import Recipe
from registry import load as load_recipe

RECIPE, WEIGHTS = "recipe.yaml", "model.safetensors"
CHECKPOINTS = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")  # of a run's folder
METADATA, PREFIX = "blockformer", "model."  # of a training checkpoint: where its recipe stands, and its model's weights


class LoadError(ValueError):
    """There is no model here; the message is one line and names the file."""


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
        return recipe, filled(recipe, weights, device=device, dtype=dtype)
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from None


def filled(
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Model:
    """A recipe's model that takes weights over, in evaluation mode; other arguments as of :func:`load`.

    Raises:
        LoadError: the weights are those of another model.
    """
    model = check(recipe)
    try:
        model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in weights.items()}, assign=True)
    except RuntimeError as error:
        raise LoadError(f"its weights do not fit its recipe: {' '.join(str(error).split())[:300]}") from None
    return model.eval()


def parts(path: str | Path) -> tuple[Path | Mapping[str, Any], Mapping[str, Tensor]]:
    """The recipe and the weights of what :func:`load` reads, not looked at yet.

    Raises:
        LoadError: as for :func:`load`.
    """
    path = Path(path)
    return _folder(path) if path.is_dir() else _checkpoint(path)


def checkpoint_of(folder: Path) -> Path | None:
    """The best, or else the last checkpoint in a run's folder."""
    return next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)


def read_checkpoint(path: str | Path, *, mmap: bool = True) -> dict[str, Any]:
    """Everything in a training checkpoint, restricted to tensors and plain data, in main memory.

    Raises:
        LoadError: there is no such file, it is damaged, or it is no checkpoint of this project.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise LoadError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise LoadError(f"{path}: is a folder, not a checkpoint") from None
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        if isinstance(error, pickle.UnpicklingError) and is_zipfile(path):
            reason = "is not a checkpoint of blockformer (it holds more than tensors and plain data)"
        else:
            reason = "is cut short or damaged, or is no checkpoint"
        raise LoadError(f"{path}: {reason}") from None
    if not isinstance(content, dict) or METADATA not in content:
        raise LoadError(f"{path}: is not a checkpoint of blockformer")
    return cast("dict[str, Any]", content)


def weights_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's own state out of a checkpoint's, which counts what trained it too."""
    state = cast("dict[str, Tensor]", content["state_dict"])
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}


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
    content = read_checkpoint(path)
    return content[METADATA]["recipe"], weights_of(content)
