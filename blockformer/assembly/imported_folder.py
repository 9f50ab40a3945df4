"""The folder that `blockformer import` writes: a recipe, its weights, and checksums of both in the weights' header."""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from blockformer.assembly.checkpoint import LoadError

RECIPE, WEIGHTS = "recipe.yaml", "model.safetensors"
CHECKSUM, FILES = "checksum", "files"  # keys of the header's metadata
_AGAIN = "run `blockformer import` again, or restore the file"


def write_imported(folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str], files: Sequence[str]) -> None:
    """Write the weights, with checksums of them and of files that are already in the folder.

    Args:
        folder: an existing folder.
        tensors: the model's parameters by name.
        about: further metadata.
        files: names of the other files; those that do not exist are left out.
    """
    sums = {name: _sha256(folder / name) for name in files if (folder / name).is_file()}
    metadata = {**about, FILES: json.dumps(sums)}
    save_file(dict(tensors), folder / WEIGHTS, metadata={**metadata, CHECKSUM: _checksum(tensors, metadata)})


def read_imported(folder: Path) -> dict[str, Tensor]:
    """Read the weights, and compare them and the other files with their checksums if the folder has any.

    Raises:
        LoadError: a file is missing, damaged or changed.
    """
    path = folder / WEIGHTS
    metadata = imported_metadata(folder)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise LoadError(f"{path}: cannot be read: {' '.join(str(error).split())[:300]}") from None
    if (wanted := metadata.pop(CHECKSUM, None)) is not None:
        if wanted != _checksum(tensors, metadata):
            raise LoadError(f"{path}: is damaged: its checksum differs; {_AGAIN}")
        for name, digest in _digests(path, metadata).items():
            _compare(folder / name, digest)
    return tensors


def _digests(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    """The checksums of the other files; a name from a strange folder leads nowhere else."""
    try:
        return {Path(name).name: str(digest) for name, digest in json.loads(metadata[FILES]).items()}
    except (KeyError, ValueError, AttributeError):
        raise LoadError(f"{path}: the checksums of the other files cannot be read; {_AGAIN}") from None


def _compare(file: Path, digest: str) -> None:
    """Compare a file with its checksum; one that was removed is noticed where it is needed."""
    try:
        same = not file.exists() or (file.is_file() and _sha256(file) == digest)
    except OSError as error:
        raise LoadError(f"{file}: cannot be read: {error.strerror or error}") from None
    if not same:
        raise LoadError(f"{file}: was changed after the import: its checksum differs; {_AGAIN}")


def imported_metadata(folder: Path) -> dict[str, str]:
    """The metadata in the header of a folder's weights.

    Raises:
        LoadError: the file cannot be read.
    """
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError, ValueError) as error:
        raise LoadError(f"{path}: cannot be read: {' '.join(str(error).split())[:300]}") from None


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32 of names, types, shapes, values and metadata."""
    names = sorted(tensors)
    header: list[Any] = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    value = zlib.crc32(json.dumps([sorted(metadata.items()), header]).encode())
    for name in names:
        value = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"crc32:{value:08x}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
