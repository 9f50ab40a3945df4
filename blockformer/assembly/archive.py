"""Read the zip archives that `torch.save` writes: with their checksums compared, and without running code in them."""

import pickle
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch

from blockformer.errors import UserError

NOT_WHOLE = "is truncated, damaged or not a checkpoint"
_CHUNK = 2**20  # bytes
_UNREADABLE = (
    *(RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ImportError),
    *(ArithmeticError, NotImplementedError, pickle.UnpicklingError),
)


class LoadError(UserError):
    """A model cannot be loaded; the message is one line that names the file."""


class DamagedError(LoadError):
    """A checkpoint is not as it was written."""


def regular_file(path: Path) -> Any:
    """The file's status; a pipe or a device would be read without end.

    Raises:
        LoadError: it is missing, or no regular file.
    """
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


def file_version(path: Path) -> tuple[int, ...]:
    """What changes when the file does.

    Raises:
        LoadError: it is missing, or no regular file.
    """
    about = regular_file(path)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def compare_checksums(path: Path, chosen: Callable[[str], bool] = lambda name: True) -> None:
    """Read the chosen records of an archive and compare their checksums.

    Raises:
        LoadError: the file cannot be read, or is not as it was written.
    """
    try:
        with ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.compress_type != ZIP_STORED for record in records):
                raise DamagedError(f"{path}: is compressed, which torch.save does not do: {NOT_WHOLE}")
            if sum(record.file_size for record in records) > path.stat().st_size:
                raise DamagedError(f"{path}: {NOT_WHOLE} (its parts are larger than the file)")
            for record in records:
                if chosen(record.filename):
                    with archive.open(record) as stream:
                        while stream.read(_CHUNK):
                            pass
    except LoadError:
        raise
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (BadZipFile, zlib.error, *_UNREADABLE) as error:
        raise DamagedError(f"{path}: {NOT_WHOLE}{' (a checksum differs)' if 'CRC' in str(error) else ''}") from None


def unpickled(path: Path, mmap: bool) -> Any:
    """Tensors and plain data of an archive.

    Raises:
        LoadError: the file cannot be read, or holds something else.
    """
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
