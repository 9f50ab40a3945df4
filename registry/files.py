"""Read files from untrusted sources: regular files only, up to a size limit."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: (IsADirectoryError, errno.EISDIR, "is a folder, not a file"),
    stat.S_IFIFO: (OSError, errno.EINVAL, "is a pipe, not a regular file"),
    stat.S_IFCHR: (OSError, errno.EINVAL, "is a device, not a regular file"),
    stat.S_IFBLK: (OSError, errno.EINVAL, "is a device, not a regular file"),
    stat.S_IFSOCK: (OSError, errno.EINVAL, "is a socket, not a regular file"),
}


def open_file(path: str | Path, most: int | None = None) -> BinaryIO:
    """Open a regular file for reading, without waiting for another process.

    Args:
        path: the file.
        most: the largest size of such a file, in bytes; None: any.

    Raises:
        OSError: it cannot be opened, is no regular file, or is larger; ``strerror`` is the reason in words.
    """
    try:
        # O_NONBLOCK: opening a pipe would otherwise wait for a writer
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL or a lone surrogate in the path
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    try:
        _check(os.fstat(descriptor), path, most)
    except OSError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")  # noqa: PTH123  (of a descriptor)


def read_bytes(path: str | Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes.

    Raises:
        OSError: as for :func:`open_file`.
    """
    with open_file(path, most) as file:
        return file.read(most)


def require_file(path: str | Path, most: int | None = None) -> None:
    """Check that a library can be given this path to read.

    Raises:
        OSError: as for :func:`open_file`.
    """
    open_file(path, most).close()


def file_in(folder: Path, name: str, most: int | None = None) -> Path:
    """A file of a folder that may come from a stranger.

    Args:
        folder: the folder.
        name: of the file in it.
        most: the largest size of such a file, in bytes; None: any.

    Raises:
        OSError: the name points outside the folder, also by a link, or as for :func:`open_file`. Links into the
            ``blobs`` of the Hugging Face cache are followed.
    """
    path = folder / name
    try:
        place, target = (Path(os.path.realpath(one)) for one in (folder, path))  # resolve() fails on a loop of links
    except ValueError as error:  # a NUL in the name
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    blobs = place.parent.parent / "blobs"
    cached = place.parent.name == "snapshots" and not blobs.is_symlink() and target.parent == blobs
    if not (cached or target.is_relative_to(place)):
        raise OSError(errno.EPERM, "points outside the folder; only files inside it are read", str(path))
    require_file(path, most)
    return path


def is_file(path: str | Path) -> bool:
    """Whether there is a file, a pipe or a device to read; also of a text that no path can be."""
    return os.path.exists(path) and not os.path.isdir(path)  # noqa: PTH110, PTH112  (long texts: no error)


def _check(found: os.stat_result, path: str | Path, most: int | None) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        error, number, reason = _KINDS.get(kind, (OSError, errno.EINVAL, "is not a regular file"))
        raise error(number, reason, str(path))
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"has {found.st_size:,} bytes; such a file has at most {most:,}", str(path))
