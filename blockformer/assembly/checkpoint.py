"""Read training checkpoints: tensors and plain data only, so that no code in one ever runs."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from zipfile import is_zipfile

import torch
from torch import Tensor

from blockformer.errors import UserError

FORMAT = 1
METADATA, PREFIX = "blockformer", "model."  # where a checkpoint keeps its recipe, and its model's weights
CHECKPOINTS = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")  # in a run's folder, best first


class LoadError(UserError):
    """A model cannot be loaded; the message is one line and names the file."""


def checkpoint_of(folder: Path) -> Path | None:
    """The best, or else the last checkpoint in a run's folder."""
    return next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)


def read(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Everything in a checkpoint, with its tensors in main memory.

    Args:
        path: the file.
        mmap: map the tensors instead of reading them.

    Raises:
        LoadError: there is no such file, it is damaged, or it is no checkpoint of this project or of this format.
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
    content = cast("dict[str, Any]", content)
    if (found := content[METADATA].get("format")) != FORMAT:
        raise LoadError(f"{path}: has format {found}; this version reads format {FORMAT}")
    return content


def read_metadata(path: str | Path) -> dict[str, Any]:
    """A checkpoint's metadata, see :func:`blockformer.training.metadata.describe`; its tensors are not read.

    Raises:
        LoadError: as for :func:`read`.
    """
    return read(path, mmap=True)[METADATA]


def weights_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's own state out of a checkpoint's, which has the state of training too."""
    state = cast("dict[str, Tensor]", content["state_dict"])
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
