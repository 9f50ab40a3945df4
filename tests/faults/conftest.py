"""What a fault is answered with: one line, a repair, or the same result as without the fault; never a traceback.

`make test` tries a sample of each kind of fault. `make faults` tries 1,000 of each (`FAULTS=1000`) and prints a table.
"""

import contextlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from blockformer.cli.main import main

LONGEST = 100  # lines of an answer
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # control characters that a terminal acts on


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def problem(self) -> str | None:
        """What is wrong with the answer; None: it is one that a user can act on."""
        text = self.out + self.err
        if "Traceback" in text:
            return "a traceback"
        if "this is a bug" in text:
            return "an unexpected error"
        if RAW.search(self.err):
            return "control characters in a message"
        if self.status not in (0, 1, 2):
            return f"status {self.status}"
        if self.status and not self.err.strip():
            return "a failure without a reason"
        if len(self.err.splitlines()) > LONGEST:
            return f"{len(self.err.splitlines())} lines"
        return None


@pytest.fixture(scope="session")
def answer() -> Callable[..., Answer]:
    """Run `blockformer` in this process, with its arguments."""

    def run(*arguments: str | Path) -> Answer:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main([str(argument) for argument in arguments])
            except SystemExit as stop:
                status = int(stop.code or 0)
        return Answer(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def faults() -> int:
    """How many faults of each kind to try."""
    return int(os.environ.get("FAULTS", "20"))


@pytest.fixture
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file with a secret; no command may change it or give away its text, `the canary sings`."""
    path = tmp_path_factory.mktemp("private") / "canary.txt"
    path.write_text("the canary sings\n" * 50)
    before = path.stat()
    yield path
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size), "the canary was written to"


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], None]]:
    """Count an outcome of a kind of fault for the table: ``tally("recipe", "refused")``."""
    counts: Counter[tuple[str, str]] = Counter()

    def count(kind: str, outcome: str) -> None:
        counts[kind, outcome] += 1

    yield count
    request.node.user_properties.append(("faults", [[*key, number] for key, number in sorted(counts.items())]))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how the faults were answered."""
    total: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("", []):
        if getattr(report, "when", "") == "teardown":
            for kind, outcome, number in dict(report.user_properties).get("faults", []):
                total[kind, outcome] += number
    if total:
        terminalreporter.section("faults")
    for kind in sorted({kind for kind, _ in total}):
        outcomes = {outcome: number for (of, outcome), number in sorted(total.items()) if of == kind}
        listed = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
        terminalreporter.write_line(f"{kind:<24}{sum(outcomes.values()):>6}  {listed}")
