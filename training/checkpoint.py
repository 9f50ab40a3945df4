"""Read checkpoints: a file alone gives back its model, and reading it runs no code of its."""

from pathlib import Path
from typing import Any

import torch

from blocks.loading import LoadError, filled, read_checkpoint
from blocks.loading import weights_of as weights
from blocks.models.base import Model
from registry import RecipeError
from registry import load as load_recipe
from training.metadata import FORMAT, METADATA, CheckpointError

__all__ = ["CheckpointError", "load", "read", "read_metadata", "weights"]


def load(path: str | Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """Build the model of a checkpoint and give it its weights.

    Args:
        path: a checkpoint that `blockformer fit` wrote.
        device: where the model shall be.

    Returns:
        The model, in float32 and in evaluation mode, and the checkpoint's metadata: `recipe`, `kind`, `objective`,
        `tokenizer` (as ``Tokenizer.dump`` gave it), `data`, `step`, `tokens`, `evaluation` and more, see
        :func:`training.metadata.describe`.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is no checkpoint of this project.
    """
    content = read(path)
    metadata = content[METADATA]
    try:
        return filled(load_recipe(metadata["recipe"]), weights(content), device=device, dtype=torch.float32), metadata
    except RecipeError as error:
        plugins = metadata.get("plugins")
        hint = f" (it was trained with --plugin {' --plugin '.join(plugins)})" if plugins else ""
        raise CheckpointError(f"{path}: its recipe is not valid here: {error.problems[0]}{hint}") from error
    except LoadError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_metadata(path: str | Path) -> dict[str, Any]:
    """A checkpoint's metadata; its tensors are not read.

    Raises:
        CheckpointError: as for :func:`load`.
    """
    return read(path, mmap=True)[METADATA]


def read(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Everything in a checkpoint, restricted to tensors and plain data (`weights_only`), in main memory.

    Raises:
        CheckpointError: as for :func:`load`.
    """
    try:
        content = read_checkpoint(path, mmap=mmap)
    except LoadError as error:
        raise CheckpointError(str(error)) from error
    if content[METADATA].get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: has format {content[METADATA].get('format')}; this version reads format {FORMAT}"
        )
    return content
