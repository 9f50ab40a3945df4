"""What `blockformer test-block` prints while checks run."""

import sys
import time
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blockformer.conformance import Outcome

SECONDS = 10.0  # between two lines of progress where stderr is no terminal


class CheckProgress:
    """A line for each outcome that is neither passed nor not applicable, and the last check on stderr.

    On a terminal the last check stands in one line that changes; elsewhere in a line every ten seconds.
    """

    def __init__(self, traceback: bool) -> None:
        self.traceback, self.live = traceback, sys.stderr.isatty()
        self.done = self.failed = 0
        self.shown = time.monotonic()

    def show(self, outcome: "Outcome", error: Exception | None) -> None:
        from blockformer.conformance.runner import STATUS_TEXT

        self.done += 1
        self.failed += not outcome.good
        self.clear()
        if outcome.status not in ("passed", "not_applicable"):
            print(f"{STATUS_TEXT[outcome.status]}: {outcome.id}: {outcome.reason}", flush=True)
        if error is not None and self.traceback:
            traceback.print_exception(error, file=sys.stdout)
        line = f"{self.done} done, last {outcome.id}"
        if self.live:
            print(line[:100], end="", file=sys.stderr, flush=True)
        elif (now := time.monotonic()) - self.shown >= SECONDS:
            self.shown = now
            print(line, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Erase the progress line."""
        if self.live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
