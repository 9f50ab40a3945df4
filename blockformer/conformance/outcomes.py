"""Run the checks without pytest, and tell what came of each."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Literal

from blockformer.conformance.expecting import Expectations
from blockformer.conformance.parametrize import pairs
from blockformer.conformance.subject import Subject
from blockformer.conformance.table import Check, name_of
from registry import Block

Status = Literal["passed", "failed", "expected", "unexpected"]
SIGNS: Mapping[Status, str] = {
    "passed": "passed",
    "failed": "FAILED",
    "expected": "failed as expected",
    "unexpected": "PASSED, though a failure is expected",
}


@dataclass(frozen=True)
class Outcome:
    """What came of one check.

    Attributes:
        subject: id of the block, with its place and parameters.
        check: name of the check.
        status: passed; failed; expected: failed as was said; unexpected: passed although a failure was said.
        reason: why it failed or is expected to, in one line.
        seconds: how long it took.
    """

    subject: str
    check: str
    status: Status
    reason: str
    seconds: float

    @property
    def id(self) -> str:
        """By which a failure can be expected: ``norm/rms: takes_nothing``."""
        return f"{self.subject}: {self.check}"

    @property
    def good(self) -> bool:
        """Whether it is as it was said."""
        return self.status in ("passed", "expected")


@dataclass(frozen=True)
class Report:
    """What came of all checks."""

    outcomes: tuple[Outcome, ...]

    @property
    def good(self) -> bool:
        """Whether all is as it was said."""
        return all(outcome.good for outcome in self.outcomes)

    def count(self, status: Status) -> int:
        """How many checks came out like this."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def summary(self) -> str:
        """One line: ``41 checks: 40 passed, 1 failed``."""
        told = [f"{self.count(status)} {words.lower()}" for status, words in SIGNS.items() if self.count(status)]
        return f"{len(self.outcomes)} checks: {', '.join(told) or 'none'}"

    def by_subject(self) -> Iterator[tuple[str, int, int, int]]:
        """Each block, and how many of its checks passed, came out otherwise than said, and failed as expected."""
        for subject, found in groupby(self.outcomes, lambda outcome: outcome.subject):
            part = Report(tuple(found))
            bad = part.count("failed") + part.count("unexpected")
            yield subject, part.count("passed"), bad, part.count("expected")

    def to_json(self) -> str:
        """All outcomes, and how many there are of each kind."""
        counts = {status: self.count(status) for status in SIGNS}
        return json.dumps({**counts, "checks": [asdict(outcome) for outcome in self.outcomes]}, indent=1) + "\n"

    def to_markdown(self) -> str:
        """A table of the blocks, and one of all that did not simply pass."""
        lines = [f"{self.summary()}.", "", *_head("block", "passed", "failed", "expected to fail")]
        lines += [_row(subject, *counts) for subject, *counts in self.by_subject()]
        rest = [outcome for outcome in self.outcomes if outcome.status != "passed"]
        if rest:
            lines += ["", *_head("check", "outcome", "reason")]
            lines += [_row(outcome.id, SIGNS[outcome.status], outcome.reason) for outcome in rest]
        return "\n".join(lines) + "\n"


def run_checks(
    blocks: Iterable[Subject | type[Block]],
    *,
    expected_failures: Mapping[str, str] | None = None,
    only: Iterable[Check] | None = None,
    without: Iterable[Check] = (),
    options: bool = False,
    watch: Callable[[Outcome, Exception | None], None] | None = None,
) -> Report:
    """Run every check that applies to each block; arguments as of :func:`parametrize_checks`.

    Args:
        blocks: registered classes, each checked at every place where it works, or subjects with parameters.
        expected_failures: why a check does not hold, by its id or by its name.
        only: the checks to take, of those that apply.
        without: the checks to leave out.
        options: also check each block with each of its parameters at another value.
        watch: called with each outcome as it is known, and with the exception if the check failed.

    Raises:
        ValueError: a failure is expected of a check that is not there.
    """
    chosen = pairs(blocks, only, without, options)
    expectations = Expectations(chosen, expected_failures)
    found: list[Outcome] = []
    for subject, check in chosen:
        outcome, error = _outcome(subject, check, expectations.reason(subject, check))
        found.append(outcome)
        if watch is not None:
            watch(outcome, error)
    return Report(tuple(found))


def _outcome(subject: Subject, check: Check, expected: str | None) -> tuple[Outcome, Exception | None]:
    start, failure = time.perf_counter(), None
    try:
        check(subject)
    except Exception as error:
        failure = error
    seconds = round(time.perf_counter() - start, 3)
    if expected is not None:
        status: Status = "unexpected" if failure is None else "expected"
        return Outcome(subject.id, name_of(check), status, expected, seconds), failure
    if failure is None:
        return Outcome(subject.id, name_of(check), "passed", "", seconds), None
    return Outcome(subject.id, name_of(check), "failed", _in_one_line(failure), seconds), failure


def _in_one_line(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return first if isinstance(error, AssertionError) and first else f"{type(error).__name__}: {first}".rstrip(": ")


def _head(*titles: str) -> tuple[str, str]:
    return _row(*titles), _row(*("---" for _ in titles))


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
