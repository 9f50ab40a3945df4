"""Prepared data on disk, found by a hash of everything that determines it.

An entry is a folder that gets its name, by renaming, when it is complete, with the sizes and checksums of its files. So
a reader sees a whole entry or none; if several processes need the same data, one prepares it and the others wait; a
damaged entry is detected and rebuilt. Large files are compared by size alone, unless `BLOCKFORMER_VERIFY=1` asks for
checksums.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from secrets import token_hex

from blockformer.errors import DataError
from blockformer.files import new_folder

if sys.platform == "win32":
    _flock = None
else:
    from fcntl import LOCK_EX
    from fcntl import flock as _flock

_MANIFEST = "manifest.json"
_LARGE = 2**26
"""Bytes above which the checksum of a file is compared on demand only."""
_VERSION = 3  # of the format of all entries; part of every key


def root() -> Path:
    """The cache's folder: `$BLOCKFORMER_CACHE`, else `blockformer` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if chosen := os.environ.get("BLOCKFORMER_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "blockformer"


def cached(kind: str, key: Mapping[str, object], build: Callable[[Path], None]) -> Path:
    """Return the folder of the entry for `key`, after building it where it is missing or damaged.

    Args:
        kind: The first part of the folder's name, for readers of the cache.
        key: Everything that determines the entry's content, as JSON values.
        build: Writes the entry's files into the empty folder given to it.

    Raises:
        DataError: The cache cannot be written.
    """
    place = _place(kind, key)
    if not intact(place):
        try:
            _create(place, build)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"cannot write prepared data to {place.parent}: {reason} (set BLOCKFORMER_CACHE to another folder)"
            ) from error
    return place


def find(kind: str, key: Mapping[str, object]) -> Path | None:
    """The folder of the entry for `key`, if there is one and it is not damaged."""
    place = _place(kind, key)
    return place if intact(place) else None


def intact(place: Path) -> bool:
    """Whether an entry exists and has exactly the files, with the sizes and checksums, that it was built with."""
    try:
        manifest = json.loads((place / _MANIFEST).read_bytes())
        there = {file.name for file in place.iterdir()} - {_MANIFEST}
        return there == set(manifest) and all(_as_built(place / name, *manifest[name]) for name in there)
    except (OSError, ValueError, TypeError):
        return False


def _as_built(file: Path, size: int, checksum: str) -> bool:
    if file.stat().st_size != size:
        return False
    return (size > _LARGE and os.environ.get("BLOCKFORMER_VERIFY") != "1") or _checksum(file) == checksum


def _place(kind: str, key: Mapping[str, object]) -> Path:
    digest = hashlib.sha256(json.dumps({"version": _VERSION, **key}, sort_keys=True).encode()).hexdigest()
    return root() / f"{kind}-{digest[:32]}"


def _create(place: Path, build: Callable[[Path], None]) -> None:
    """Build an entry, unless another process is doing so, which is waited for."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place) as alone:
        if not intact(place):
            for draft in place.parent.glob(f".{place.name}.*") if alone else ():
                if draft.is_dir():  # of a process that was killed
                    shutil.rmtree(draft, ignore_errors=True)
            _build(place, build)


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[bool]:
    """Wait until no other process builds this entry; False: files cannot be locked there, so others may."""
    lock, alone = place.with_name(f".{place.name}.lock"), False
    while True:
        file = lock.open("ab")
        try:
            if _flock is not None:
                _flock(file.fileno(), LOCK_EX)
                alone = True
        except OSError:
            break
        except BaseException:
            file.close()
            raise
        if not alone or os.fstat(file.fileno()).st_nlink:
            break
        file.close()  # the file was removed by the one that was waited for
    with file:
        try:
            yield alone
        finally:
            lock.unlink(missing_ok=True)


def _build(place: Path, build: Callable[[Path], None]) -> None:
    if place.exists() and not intact(place):
        damaged = place.with_name(f".{place.name}.{token_hex(4)}")
        with contextlib.suppress(FileNotFoundError):  # another process has just moved the damaged entry away
            place.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        with new_folder(place) as draft:
            build(draft)
            manifest = {file.name: (file.stat().st_size, _checksum(file)) for file in sorted(draft.iterdir())}
            (draft / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    except OSError:
        if not intact(place):
            raise


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
