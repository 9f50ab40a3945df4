"""What `blockformer test-block` prints while checks run."""

import sys
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blockformer.conformance import Outcome

ALIKE = 3  # checks with one reason that have a line of their own
SECONDS = 10.0  # between two lines of progress where stderr is no terminal


class CheckProgress:
    """A line for each outcome that is neither passed nor not applicable, and the last check on stderr.

    Of checks that failed for one and the same reason the first few have lines; :meth:`end` counts the others. On a
    terminal the last check stands in one line that changes; elsewhere in a line every ten seconds.
    """

    def __init__(self, traceback: bool) -> None:
        self.traceback, self.live = traceback, sys.stderr.isatty()
        self.done = self.failed = 0
        self.shown = time.monotonic()
        self.reasons = Counter[str]()

    def show(self, outcome: "Outcome", error: Exception | None) -> None:
        from blockformer.conformance.runner import STATUS_TEXT

        self.done += 1
        self.failed += not outcome.good
        self.clear()
        self.reasons[outcome.reason] += not outcome.good
        if outcome.status == "expected" or (not outcome.good and self.reasons[outcome.reason] <= ALIKE):
            print(f"{STATUS_TEXT[outcome.status]}: {outcome.id}: {outcome.reason}", flush=True)
        if error is not None and self.traceback:
            traceback.print_exception(error, file=sys.stdout)
        line = f"{self.done} done, last {outcome.id}"
        if self.live:
            print(line[:100], end="", file=sys.stderr, flush=True)
        elif (now := time.monotonic()) - self.shown >= SECONDS:
            self.shown = now
            print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Erase the progress line, and count what had no line of its own."""
        self.clear()
        for reason, count in self.reasons.items():
            if count > ALIKE:
                print(f"... and {count - ALIKE} more checks with the same reason: {reason}", flush=True)

    def clear(self) -> None:
        """Erase the progress line."""
        if self.live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
