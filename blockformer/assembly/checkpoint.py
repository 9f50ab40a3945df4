"""Read training checkpoints. Only tensors and plain data are read, so no code in a checkpoint ever runs."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from zipfile import is_zipfile

import torch
from torch import Tensor

from blockformer.errors import UserError

FORMAT = 1
METADATA, PREFIX = "blockformer", "model."  # key of the metadata, prefix of the model's parameter names
CHECKPOINTS = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")  # in a run's folder, best first


class LoadError(UserError):
    """A model cannot be loaded; the message is one line that names the file."""


def checkpoint_in(folder: Path) -> Path | None:
    """The best or else the last checkpoint of a run's folder; None if it has neither."""
    return next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)


def read_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a whole checkpoint, with its tensors in main memory.

    Args:
        path: the checkpoint's file.
        mmap: map the tensors from the file instead of reading them.

    Raises:
        LoadError: the file is missing or damaged, or is not a checkpoint of this project and format.
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
            reason = "is truncated, damaged or not a checkpoint"
        raise LoadError(f"{path}: {reason}") from None
    if not isinstance(content, dict) or METADATA not in content:
        raise LoadError(f"{path}: is not a checkpoint of blockformer")
    content = cast("dict[str, Any]", content)
    if (found := content[METADATA].get("format")) != FORMAT:
        raise LoadError(f"{path}: has format {found}; this version reads format {FORMAT}")
    return content


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's metadata alone (see :func:`blockformer.training.metadata.run_metadata`), not its tensors.

    Raises:
        LoadError: as for :func:`read_checkpoint`.
    """
    return read_checkpoint(path, mmap=True)[METADATA]


def model_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's parameters by name, without the rest of the training state."""
    state = cast("dict[str, Tensor]", content["state_dict"])
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
