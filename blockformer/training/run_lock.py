"""A lock on a run's folder: one run has one process, or one group of processes with the first of them as the owner."""

import contextlib
import errno
import json
import os
import socket
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

from blockformer.errors import UserError
from registry.text import printable

LOCK = "run.lock"
BEAT = 5.0
"""Seconds between two signs of life of an owner."""
PATIENCE = 3 * BEAT
"""Seconds without a sign of life after which an owner on another machine is taken for dead."""
BUSY = "is being trained by"
"""Part of the message about a folder that is locked."""
_LONGEST = 1000  # bytes of an owner's record
_BUSY = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)

if sys.platform == "win32":
    _flock = None
else:
    from fcntl import LOCK_EX, LOCK_NB
    from fcntl import flock as _flock

_held: set[int] = set()  # descriptors of this process


def _close_inherited() -> None:
    """A forked process closes the descriptors, or it would keep the locks of its parent beyond the parent's life."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


class RunLock:
    """Holds `run.lock` in a folder until it is released or the process ends, however it ends.

    The kernel holds the lock, so that a killed process cannot leave it behind. The file names the owner. Some network
    file systems have no such locks, or none that other machines see: an owner also touches the file every
    :data:`BEAT` seconds, and one on another machine is waited for before its lock is taken over.

    Args:
        folder: the run's folder; it is created if necessary, and removed again if nothing else has been written to it.
        quiet: whether to wait for a sign of life without saying so.

    Raises:
        UserError: another process holds the lock; the message names it. Or the folder cannot be written.
    """

    def __init__(self, folder: Path, *, quiet: bool = False) -> None:
        self.folder, self._path, self._quiet = folder, folder / LOCK, quiet
        self._released = threading.Event()
        try:
            self._created = _create(folder)
            self._descriptor = self._taken()
            _held.add(self._descriptor)
            self._sign()
        except OSError as error:
            raise UserError(f"{error.filename or folder}: cannot be used for a run: {error.strerror}") from error
        threading.Thread(target=self._beat, daemon=True, name="run lock").start()

    def release(self) -> None:
        """Let the next run have the folder; without effect if this has been done."""
        if self._released.is_set():
            return
        self._released.set()
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        if self._created and self._is_ours() and _content(self.folder) == [LOCK]:
            with contextlib.suppress(OSError):
                self._path.unlink()
                self.folder.rmdir()
        _held.discard(self._descriptor)
        os.close(self._descriptor)

    @property
    def inheritable(self) -> tuple[int, ...]:
        """For ``pass_fds`` of a process that shall hold the lock too, until both have ended."""
        return () if _flock is None else (self._descriptor,)

    def _is_ours(self) -> bool:
        """Whether the file is still the one that was locked: a lock without signs of life can have been replaced."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def _taken(self) -> int:
        """An open descriptor of the file, locked."""
        while True:
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            except FileNotFoundError:  # the previous owner has just removed the folder
                _create(self.folder)
                continue
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EINVAL, "is not a regular file", str(self._path))
                kernel = _lock(descriptor)
                owner = _record(descriptor)
                if kernel is False or (owner and self._is_alive(owner, kernel=kernel is True)):
                    raise UserError(f"{self.folder} {BUSY} {_named(owner)}: {_REMEDY}")
                if os.fstat(descriptor).st_nlink:
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # of a file that the previous owner has just removed

    def _is_alive(self, owner: dict[str, Any], *, kernel: bool) -> bool:
        """Whether an owner that has not released the lock is alive, where the kernel does not know."""
        if kernel and owner.get("machine") == _machine():
            return False
        before, end = self._path.stat().st_mtime_ns, time.monotonic() + PATIENCE
        if not self._quiet:
            waiting = f"waiting {PATIENCE:.0f} seconds for a sign of life"
            waits = f"{self.folder} was being trained by {_named(owner)}; {waiting}"
            print(f"note: {printable(waits)}", file=sys.stderr, flush=True)
        while time.monotonic() < end:
            time.sleep(BEAT / 5)
            with self._path.open("rb"):  # makes a network file system look again
                if self._path.stat().st_mtime_ns != before:
                    return True
        return False

    def _sign(self) -> None:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        owner = {"process": os.getpid(), "host": socket.gethostname(), "since": since, "machine": _machine()}
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, json.dumps(owner).encode() + b"\n")

    def _beat(self) -> None:
        while not self._released.wait(BEAT) and self._is_ours():
            with contextlib.suppress(OSError):
                os.utime(self._path)


_REMEDY = "wait for it, stop it, or give another --run.name"


def lock_new(root: Path, name: str) -> RunLock:
    """Create and lock a folder of that name, with a number if another run has it.

    Raises:
        UserError: ``root`` cannot be written.
    """
    for number in range(1, 10_000):
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            if _create(folder):
                lock = RunLock(folder)
                lock._created = True
                return lock
        except OSError as error:
            raise UserError(f"{error.filename or folder}: cannot be used for a run: {error.strerror}") from error
    raise UserError(f"{root} holds 10,000 runs named {name}: give another --run.name")


def _create(folder: Path) -> bool:
    """Create a folder; False: it is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
        return False
    return True


def _content(folder: Path) -> list[str]:
    try:
        return [item.name for item in folder.iterdir()]
    except OSError:
        return []


def _lock(descriptor: int) -> bool | None:
    """Whether the kernel gave the lock; None: this file system has no locks."""
    if _flock is None:
        return None
    try:
        _flock(descriptor, LOCK_EX | LOCK_NB)
    except OSError as error:
        return False if error.errno in _BUSY else None
    return True


def _record(descriptor: int) -> dict[str, Any]:
    """What the file says about its owner; empty where nobody owns it or that cannot be read."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        found = json.loads(os.read(descriptor, _LONGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _named(owner: dict[str, Any]) -> str:
    parts = [str(owner.get(key, ""))[:80] for key in ("process", "host", "since")]
    if not all(part and part.isprintable() for part in parts):
        return "another process"
    return "process {} on {} since {}".format(*parts)


def _machine() -> str:
    """An identifier of this boot of this machine, the same in all its containers; elsewhere the host's name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
