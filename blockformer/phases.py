"""Print what a run is doing in phases without other output: a line when each begins, and again every ten seconds.

Only the standard library is imported, because the first phase is the loading of all others.
"""

import os
import threading
import time
from collections.abc import Callable

SECONDS = 10.0
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # of a process that another one has started


class Phases:
    """Prints what is being done; one phase ends with the next."""

    def __init__(self) -> None:
        self._ended: threading.Event | None = None
        self._where: str | Callable[[], str] | None = ""

    @property
    def shown(self) -> bool:
        """Whether a phase has begun in this process, and is shown."""
        return self._ended is not None

    def begin(self, what: str) -> None:
        """Print a line, in the first process only, and keep printing until the phase ends."""
        self.end()
        if any(os.environ.get(name, "0") != "0" for name in RANKS):
            return
        self._where, self._ended = "", threading.Event()
        print(f"{what} ...", flush=True)
        threading.Thread(target=self._repeat, args=(what, self._ended), daemon=True, name="phases").start()

    def at(self, where: str | Callable[[], str] | None) -> None:
        """How far the phase is; a part of its next lines.

        Args:
            where: the part, or what makes it for each line; None: a bar shows it, and there are no lines.
        """
        self._where = where

    def end(self) -> None:
        """End the phase, if there is one."""
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    def _repeat(self, what: str, ended: threading.Event) -> None:
        began = time.monotonic()
        while not ended.wait(SECONDS):
            passed = int(time.monotonic() - began)
            where = self._where() if callable(self._where) else self._where
            if where is not None:
                print(f"{what}{where} ... {passed // 60}:{passed % 60:02d}", flush=True)


phases = Phases()
"""Those of this process."""
