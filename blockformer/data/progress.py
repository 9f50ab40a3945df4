"""Progress of the preparation of data: a bar on a terminal; elsewhere a part of the lines of the current phase."""

import contextlib
import sys
import time
from collections.abc import Generator

from rich import progress
from rich.console import Console

from blockformer.phases import phases

_SOON = 0.5  # seconds without a bar, so that none flashes up where there is little to do
_EVERY = 0.1  # seconds between two changes of the bar
_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "bytes"))


class Stage:
    """One pass over the data, such as its encoding.

    Args:
        what: its name, such as "encoding".
        total: bytes to do; None: not known.
        bar: draw a bar.
    """

    def __init__(self, what: str, total: int | None, *, bar: bool) -> None:
        self._what, self._total, self._done = what, total, 0
        self._begun = time.monotonic()
        self._next = self._begun + _SOON if bar else float("inf")
        self._bar: progress.Progress | None = None

    def advance(self, size: int) -> None:
        """Count bytes that have been done."""
        self._done += size
        if (now := time.monotonic()) >= self._next:
            self._next = now + _EVERY
            self._draw()

    def text(self) -> str:
        """How far it is, for a line: bytes done, of all, MB a second and the time left."""
        seconds = max(time.monotonic() - self._begun, 1e-9)
        scale, unit = next(((size, name) for size, name in _UNITS if (self._total or self._done) >= size), _UNITS[-1])
        digits = 0 if scale == 1 else 1
        of = "" if self._total is None else f" of {self._total / scale:.{digits}f}"
        line = f": {self._what} {self._done / scale:.{digits}f}{of} {unit}, {self._done / 1e6 / seconds:.1f} MB/s"
        if self._total is None or not self._done:
            return line
        left = int(seconds / self._done * max(0, self._total - self._done))
        return f"{line}, {left // 60}:{left % 60:02d} left"

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self) -> None:
        if self._bar is None:
            columns = (progress.TextColumn("{task.description}"), progress.BarColumn(20), progress.DownloadColumn())
            rates = (progress.TransferSpeedColumn(), progress.TimeRemainingColumn())
            self._bar = progress.Progress(*columns, *rates, console=Console(file=sys.stdout), transient=True)
            self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        self._bar.update(progress.TaskID(0), completed=self._done)


@contextlib.contextmanager
def stage(what: str, total: int | None) -> Generator[Stage]:
    """Show how far a pass over the data is, where phases are shown at all; its name is kept until the next one begins.

    Args:
        what: its name, such as "encoding".
        total: bytes to do; None: not known.
    """
    bar = phases.shown and sys.stdout.isatty()
    one = Stage(what, total, bar=bar)
    phases.at(None if bar else one.text)
    try:
        yield one
    finally:
        one.close()
        phases.at(f": {what}")
