"""Write files in one step: after a crash a file holds all of the old content or all of the new."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Give ``path`` new content in one step: after a crash it holds all of the old or all of the new.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(draft).chmod(0o666 & ~_umask())  # mkstemp gives the owner alone access
        Path(draft).replace(path)
    except BaseException as error:
        Path(draft).unlink(missing_ok=True)
        # torch reports a full disk as a wrong position in its archive; what the system said came before.
        told = error if isinstance(error, OSError) else error.__context__
        if isinstance(told, OSError):
            raise OSError(told.errno or errno.EIO, told.strerror or str(told), str(path)) from error
        raise
    _reach_disk(path.parent)


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomically` of UTF-8 text.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    write_atomically(path, lambda stream: stream.write(text.encode()))


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """Create a folder in one step: yield a temporary folder beside ``path`` and rename it to ``path`` at the end.

    After an exception nothing is left.

    Raises:
        FileExistsError: ``path`` exists already.
        OSError: it cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.{token_hex(4)}"
    try:
        draft.mkdir()
        yield draft
        draft.replace(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _reach_disk(path.parent)


def remove_drafts(folder: Path) -> None:
    """Remove what writers left that were killed; nobody else may be writing there."""
    for draft in folder.glob(".*.tmp"):
        draft.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _reach_disk(folder: Path) -> None:
    """Make the renaming itself durable; not every system lets folders be synced."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
