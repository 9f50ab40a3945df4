"""Read training checkpoints. Only tensors and plain data are read, so no code in a checkpoint ever runs.

A checkpoint is the zip archive that `torch.save` writes. It has a CRC-32 of each of its parts, which `torch.load` does
not compare; here they are compared, so that a damaged file is refused instead of being used with other weights.
"""

import contextlib
import pickle
import stat
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch
from torch import Tensor

from blockformer.assembly.checkpoint_schema import FORMAT, METADATA, PREFIX, MalformedError, checked, checked_metadata
from blockformer.errors import UserError

CHECKPOINTS = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")  # in a run's folder, best first
VERSION = "pytorch-lightning_version"
NOT_WHOLE = "is truncated, damaged or not a checkpoint"
_CHUNK = 2**20  # bytes
_UNREADABLE = (
    *(RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ImportError),
    *(ArithmeticError, NotImplementedError, pickle.UnpicklingError),
)

__all__ = ["FORMAT", "METADATA", "PREFIX"]


class LoadError(UserError):
    """A model cannot be loaded; the message is one line that names the file."""


class DamagedError(LoadError):
    """A checkpoint is not as it was written."""


def checkpoint_in(folder: Path) -> Path | None:
    """The best or else the last checkpoint of a run's folder; None if it has neither."""
    return next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)


def read_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a whole checkpoint, with its tensors in main memory, and check it.

    Args:
        path: the checkpoint's file.
        mmap: map the tensors from the file instead of reading them; their checksums are compared all the same.

    Raises:
        LoadError: the file is missing or damaged, is not a checkpoint of this project and format, or holds something
            that a checkpoint does not; a whole checkpoint beside a damaged one is named.
    """
    path = Path(path)
    verify(path)
    try:
        return checked(_unpickled(path, mmap))
    except MalformedError as error:
        raise LoadError(f"{path}: {error}") from None


def read_training_state(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint for Lightning, which decides by the stored version how to read it.

    Raises:
        LoadError: as for :func:`read_checkpoint`, or the version is missing.
    """
    content = read_checkpoint(path, mmap=mmap)
    if content.get(VERSION) is None:
        raise LoadError(f"{path}: {VERSION} is missing, so training cannot continue from this checkpoint")
    return content


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's metadata alone (see :func:`blockformer.training.metadata.run_metadata`), not its tensors.

    Raises:
        LoadError: as for :func:`read_checkpoint`, but the tensors are not looked at.
    """
    path = Path(path)
    with _naming_another(path):
        return _metadata(path)


def required_value(metadata: Mapping[str, Any], key: str, path: str | Path) -> Any:
    """A value that a use of a checkpoint needs.

    Raises:
        LoadError: the checkpoint does not have it.
    """
    if metadata.get(key) is None:
        raise LoadError(f"{path}: {METADATA}.{key} is missing, so this command cannot use the checkpoint")
    return metadata[key]


def model_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's parameters by name, without the rest of the training state."""
    state = cast("dict[str, Tensor]", content["state_dict"])
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}


def verify(path: str | Path) -> None:
    """Compare the whole file with its checksums, once in a process unless the file changes.

    Raises:
        LoadError: it cannot be read, or is not as it was written; a whole checkpoint beside it is named.
    """
    path = Path(path)
    with _naming_another(path):
        _verify(path)


def _verify(path: Path) -> None:
    about = _regular(path)
    _verified(path, (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=64)
def _verified(path: Path, version: tuple[int, ...]) -> None:
    """:func:`verify` of one version of a file; an error is not remembered."""
    _compare(path, lambda name: True)


def _metadata(path: Path) -> dict[str, Any]:
    _regular(path)
    _compare(path, lambda name: name.endswith("/data.pkl"))
    try:
        return checked_metadata(_unpickled(path, mmap=True))
    except MalformedError as error:
        raise LoadError(f"{path}: {error}") from None


def _regular(path: Path) -> Any:
    """The file's status; a pipe or a device would be read without end."""
    try:
        about = path.stat()
    except FileNotFoundError:
        raise LoadError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise LoadError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(about.st_mode):
        raise LoadError(f"{path}: is a folder, not a checkpoint")
    if not stat.S_ISREG(about.st_mode):
        raise LoadError(f"{path}: is not a regular file")
    return about


def _compare(path: Path, chosen: Callable[[str], bool]) -> None:
    """Read the chosen parts of the archive and compare their checksums."""
    try:
        with ZipFile(path) as archive:
            parts = archive.infolist()
            if any(part.compress_type != ZIP_STORED for part in parts):
                raise DamagedError(f"{path}: is compressed, which torch.save does not do: {NOT_WHOLE}")
            if sum(part.file_size for part in parts) > path.stat().st_size:
                raise DamagedError(f"{path}: {NOT_WHOLE} (its parts are larger than the file)")
            for part in parts:
                if chosen(part.filename):
                    with archive.open(part) as stream:
                        while stream.read(_CHUNK):
                            pass
    except LoadError:
        raise
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (BadZipFile, zlib.error, *_UNREADABLE) as error:
        raise DamagedError(f"{path}: {NOT_WHOLE}{' (a checksum differs)' if 'CRC' in str(error) else ''}") from None


def _unpickled(path: Path, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (RecursionError, MemoryError):
        raise LoadError(f"{path}: is not a checkpoint of blockformer (its content is nested without end)") from None
    except _UNREADABLE as error:
        if isinstance(error, pickle.UnpicklingError) and is_zipfile(path):
            reason = "is not a checkpoint of blockformer (it holds more than tensors and plain data)"
        else:
            reason = NOT_WHOLE
        raise DamagedError(f"{path}: {reason}") from None


@contextlib.contextmanager
def _naming_another(path: Path) -> Generator[None]:
    """Add the whole checkpoint beside a damaged one to the error."""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{error}{_alternative(path)}") from None


def _alternative(damaged: Path) -> str:
    """The newest whole checkpoint beside a damaged one. It is named, not taken: the user decides about going back."""
    whole: list[tuple[int, str]] = []
    for path in _beside(damaged):
        with contextlib.suppress(LoadError):
            _verify(path)
            whole.append((_metadata(path).get("step", 0), str(path)))
    return "; {1} (step {0}) is intact: --ckpt_path {1} continues from there".format(*max(whole)) if whole else ""


def _beside(path: Path) -> Iterable[Path]:
    with contextlib.suppress(OSError):
        return [other for other in path.parent.glob("*.ckpt") if other != path]
    return []
