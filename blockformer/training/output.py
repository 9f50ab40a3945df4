"""Copy what a run prints to its `log.txt`, and ignore errors of standard output."""

import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blockformer import signals
from blockformer.files import NOFOLLOW

LOG = "log.txt"
WAITING = 1000  # lines kept until the run has a folder


class RunLog:
    """Appends lines with their time to a file; until there is one, keeps them.

    A line that cannot be written, because the disk is full, is left out.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._waiting: list[str] = []
        self._lock = threading.RLock()

    def open(self, path: Path) -> None:
        """Write to ``path`` from now on, beginning with the lines so far."""
        with self._lock:
            self._path, waiting, self._waiting = path, self._waiting, []
            self._append("".join(waiting))

    def note(self, text: str) -> None:
        """Add lines that are not printed, or are printed in another form."""
        with self._lock:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            lines = "".join(f"{stamp}  {line}\n" for line in text.splitlines())
            if self._path is not None:
                self._append(lines)
            elif len(self._waiting) < WAITING:
                self._waiting.append(lines)

    def _append(self, lines: str) -> None:
        assert self._path is not None
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NOFOLLOW, 0o666)
            try:
                os.write(descriptor, lines.encode(errors="backslashreplace"))
            finally:
                os.close(descriptor)


class _Kept:
    """A text stream that notes what is written to it, and goes on where it cannot be written."""

    def __init__(self, stream: Any, log: RunLog) -> None:
        self._stream, self._log, self._line = stream, log, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return self._try("isatty") or False

    def write(self, text: str) -> int:
        self._try("write", text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if "\x1b" not in line and "\r" not in line:  # not the frames of a progress bar
                self._log.note(line)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try("flush")

    def _try(self, name: str, *arguments: Any) -> Any:
        """Call a method of the stream, if it is open and can be written."""
        try:
            return None if self._stream is None else getattr(self._stream, name)(*arguments)
        except ValueError:  # closed
            return None
        except OSError as error:
            if error.errno != errno.ENOSPC:  # a full disk may have room again; a reader that left does not return
                self.discard()
            return None

    def discard(self) -> None:
        """Send what follows, from native code too, to nowhere."""
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def close_log(self) -> None:
        """Write what is left, or drop it, so that Python can flush the stream at exit."""
        if self._line:
            self.write("\n")
        with contextlib.suppress(ValueError):
            try:
                if self._stream is not None:
                    self._stream.flush()
            except OSError:
                self.discard()


_current: RunLog | None = None


@contextlib.contextmanager
def kept_output() -> Iterator[RunLog]:
    """Keep what is printed in a :class:`RunLog`, and ignore errors of standard output and error."""
    global _current
    if _current is not None:
        yield _current
        return
    log = _current = RunLog()
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = mine = _Kept(out, log), _Kept(err, log)
    signals.before_exit.append(log.note)
    try:
        yield log
    finally:
        signals.before_exit.remove(log.note)
        for stream in mine:
            stream.close_log()
        sys.stdout, sys.stderr = out, err
        _current = None


def run_log() -> RunLog:
    """The log of the run of this process; outside :func:`kept_output` one that leads nowhere."""
    return _current or RunLog()
