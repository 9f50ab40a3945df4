"""Write files and folders in one step, so that a crash never leaves a part of one; JSON for and from anyone."""

import errno
import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)  # of opening: not through a link; Windows does not have it
_DIGITS = 19  # of a whole number with its sign
LONGEST_NAME = 200  # bytes; systems allow 255, and suffixes are added


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace the content of a file in one step: after a crash it has either the old or the new content.

    Args:
        path: the file; its folder is created if necessary.
        write: writes the new content into the open file that it is given.

    Raises:
        OSError: the file cannot be written; it keeps its old content.
    """
    with replacing(path) as stream:
        write(stream)


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """:func:`write_atomically` for content that comes bit by bit: yield an open file, and put it in place at the end.

    After an exception the file has its old content.

    Raises:
        OSError: the file cannot be written, or is a device or a pipe, which renaming would replace for all programs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is a folder, a device or a pipe, not a regular file", str(path))
    draft = path.parent / f".{path.name}.{token_hex(4)}.tmp"  # named before it exists: a signal may come at any time
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | NOFOLLOW | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(draft, flags, 0o666), "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        # torch reports a full disk as a wrong position in its archive; the error of the system is its context.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno or errno.EIO, cause.strerror or str(cause), str(path)) from error
        raise
    sync_folder(path.parent)


def open_to_append(path: Path) -> BinaryIO:
    """Open a file to read it and append to it; it is created if necessary.

    Raises:
        OSError: it cannot be opened, is no regular file, or is a link, which may lead out of the folder that was named.
    """
    try:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | NOFOLLOW | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, "is a link; remove it", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is a device or a pipe, not a regular file", str(path))
    return os.fdopen(descriptor, "ab+")


def as_json(value: Any, **options: Any) -> str:
    """JSON for any reader: infinity and NaN, which JSON does not have, become null.

    Args:
        value: what to write.
        options: as for :func:`json.dumps`.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:  # copied only where it is needed
        return json.dumps(_finite(value), allow_nan=False, **options)


def parse_json(text: str, constant: Callable[[str], Any] | None = None) -> Any:
    """Read JSON whose numbers are finite and fit into 64 bits.

    Args:
        text: the JSON.
        constant: returns what ``Infinity``, ``-Infinity`` and ``NaN`` are read as; None: they are refused.

    Raises:
        ValueError: it is none, or is nested too deeply.
    """
    try:
        constant = constant or _no_number
        return json.loads(text, parse_constant=constant, parse_float=_finite_number, parse_int=_integer)
    except RecursionError:
        raise ValueError("is too deeply nested") from None


def is_deeper(value: Any, most: int) -> bool:
    """Whether JSON values have more than some levels of lists and objects; the levels are not counted by recursion."""
    level = [value]
    for _ in range(most + 1):
        inside = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        if not inside:
            return False
        level = [part for parts in inside for part in parts]
    return True


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite_number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large for a number")
    return value


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomically` of UTF-8 text.

    Raises:
        OSError: the file cannot be written; it keeps its old content.
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
    sync_folder(path.parent)


def remove_drafts(folder: Path, but: Collection[str] = ()) -> None:
    """Remove the temporary files and folders of killed writers.

    Args:
        folder: the folder.
        but: names of files that another process may be writing; their drafts stay.
    """
    for draft in folder.glob(".*.tmp"):
        if not any(draft.name.startswith(f".{name}.") for name in but):
            if draft.is_dir() and not draft.is_symlink():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)


def is_name(text: str) -> bool:
    """Whether a text can name a file or folder: no path, no control characters or outer spaces, not too long."""
    plain = text.isprintable() and text == text.strip() and len(text.encode(errors="replace")) <= LONGEST_NAME
    return plain and bool(text) and text not in (".", "..") and not set(text) & {"/", "\\"}


def sync_folder(folder: Path) -> None:
    """Make a renaming durable; only POSIX systems can sync a folder."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
