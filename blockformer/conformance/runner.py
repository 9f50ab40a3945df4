"""Run the checks: as pytest tests, or without pytest as a report."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

from blockformer.conformance.block_case import BlockCase, NotApplicable, block_cases
from blockformer.conformance.table import Check, check_name, checks_for, runs_once
from blockformer.conformance.variants import variants
from blockformer.files import as_json
from registry import Block, entries, entry_of

Status = Literal["passed", "failed", "expected", "unexpected", "not_applicable"]
STATUS_TEXT: Mapping[Status, str] = {
    "passed": "passed",
    "failed": "FAILED",
    "expected": "failed as expected",
    "unexpected": "PASSED, but a failure is expected",
    "not_applicable": "not applicable",
}


def parametrize_checks(
    blocks: Iterable[BlockCase | type[Block]],
    *,
    expected_failures: Mapping[str, str] | None = None,
    only: Iterable[Check] | None = None,
    without: Iterable[Check] = (),
    options: bool = False,
) -> Any:
    """A pytest decorator: run a test function with every pair of ``case`` and ``check``.

    ``@parametrize_checks([MyMixer])`` over ``def test_conforms(case, check): check(case)`` is a whole test file.

    Args:
        blocks: registered classes, each checked at every place that it supports, or cases with parameters.
        expected_failures: reason by check id, ``norm/my_norm: accepts_empty_inputs``, or by check name for all blocks.
            Such a check must fail. A class can declare the same in its ``expected_failures``.
        only: run these checks only, where they apply.
        without: do not run these checks.
        options: also check each block with each of its parameters at another value.

    Raises:
        ValueError: ``expected_failures`` names a check that does not apply to any block.
    """
    import pytest  # here, so that checks can be called without it

    chosen = pairs(blocks, only, without, options)
    reasons, params = _expected_reasons(chosen, expected_failures), list[Any]()
    for (case, check), reason in zip(chosen, reasons, strict=True):
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
        params.append(pytest.param(case, check, id=f"{case.id}: {check_name(check)}", marks=marks))
    return pytest.mark.parametrize(("case", "check"), params)


def pairs(
    blocks: Iterable[BlockCase | type[Block]],
    only: Iterable[Check] | None = None,
    without: Iterable[Check] = (),
    options: bool = False,
) -> list[tuple[BlockCase, Check]]:
    """Each case with each check that applies to it; arguments as of :func:`parametrize_checks`."""
    wanted, left_out = None if only is None else set(only), set(without)
    found: list[tuple[BlockCase, Check]] = []
    for block in blocks:
        for case in [block] if isinstance(block, BlockCase) else block_cases(block.slot.name, entry_of(block).name):
            found += [(case, check) for check in checks_for(case)]
            for variant in variants(case) if options else ():
                found += [(variant, check) for check in checks_for(variant) if not runs_once(variant, check)]
    return [(s, c) for s, c in found if c not in left_out and (wanted is None or c in wanted)]


def _expected_reasons(
    chosen: Iterable[tuple[BlockCase, Check]], expected_failures: Mapping[str, str] | None
) -> list[str | None]:
    """For each pair the reason why it is expected to fail, from the caller or from the class; None: it should pass."""
    expected, unused, reasons = expected_failures or {}, set(expected_failures or ()), list[str | None]()
    for case, check in chosen:
        keys, own = (f"{case.id}: {check_name(check)}", check_name(check)), entries(case.slot)[case.name].block
        reasons.append(
            next((said[key] for said in (expected, own.expected_failures) for key in keys if key in said), None)
        )
        unused -= set(keys)
    if unused:
        raise ValueError(f"expected_failures: no check is called {min(unused)!r}; name a check that applies, or its id")
    return reasons


@dataclass(frozen=True)
class Outcome:
    """The outcome of one check on one block.

    Attributes:
        case: id of the block, with its place and parameters.
        check: name of the check.
        status: ``expected``: failed as expected; ``unexpected``: passed though a failure is expected;
            ``not_applicable``: the block has nothing for the check to test.
        reason: why it failed, is expected to fail, or does not apply, in one line.
        seconds: run time.
    """

    case: str
    check: str
    status: Status
    reason: str
    seconds: float

    @property
    def id(self) -> str:
        """The key for ``expected_failures``: ``norm/rms: accepts_empty_inputs``."""
        return f"{self.case}: {self.check}"

    @property
    def good(self) -> bool:
        """Whether the outcome is as expected."""
        return self.status not in ("failed", "unexpected")


@dataclass(frozen=True)
class ConformanceReport:
    """The outcomes of all checks that ran."""

    outcomes: tuple[Outcome, ...]

    @property
    def good(self) -> bool:
        """Whether every outcome is as expected."""
        return all(outcome.good for outcome in self.outcomes)

    def count(self, *statuses: Status) -> int:
        """How many outcomes have one of these statuses."""
        return sum(outcome.status in statuses for outcome in self.outcomes)

    def summary(self) -> str:
        """One line: ``41 checks: 38 passed, 1 failed, 2 not applicable``."""
        counts = [f"{self.count(status)} {text.lower()}" for status, text in STATUS_TEXT.items() if self.count(status)]
        return f"{len(self.outcomes)} check{'s' * (len(self.outcomes) != 1)}: {', '.join(counts) or 'none'}"

    def by_case(self) -> "Iterator[tuple[str, ConformanceReport]]":
        """The id of each block, and the report of its checks."""
        for case, outcomes in groupby(self.outcomes, lambda outcome: outcome.case):
            yield case, ConformanceReport(tuple(outcomes))

    def to_json(self) -> str:
        """All outcomes, and the number of each status."""
        counts = {status: self.count(status) for status in STATUS_TEXT}
        return as_json({**counts, "checks": [asdict(outcome) for outcome in self.outcomes]}, indent=1) + "\n"

    def to_markdown(self) -> str:
        """A table of the blocks, and one of all outcomes that are neither passed nor not applicable."""
        lines = [f"{self.summary()}.", "", *_head("block", "passed", "failed", "expected to fail", "not applicable")]
        for case, report in self.by_case():
            bad = report.count("failed", "unexpected")
            lines.append(
                _row(case, report.count("passed"), bad, report.count("expected"), report.count("not_applicable"))
            )
        rest = [outcome for outcome in self.outcomes if outcome.status not in ("passed", "not_applicable")]
        if rest:
            lines += ["", *_head("check", "outcome", "reason")]
            lines += [_row(outcome.id, STATUS_TEXT[outcome.status], outcome.reason) for outcome in rest]
        return "\n".join(lines) + "\n"


def run_checks(
    blocks: Iterable[BlockCase | type[Block]],
    *,
    expected_failures: Mapping[str, str] | None = None,
    only: Iterable[Check] | None = None,
    without: Iterable[Check] = (),
    options: bool = False,
    watch: Callable[[Outcome, Exception | None], None] | None = None,
) -> ConformanceReport:
    """Run every check that applies to each block, without pytest.

    Args:
        blocks: as of :func:`parametrize_checks`, like all but the last of the following.
        expected_failures: reason by check id or check name.
        only: run these checks only.
        without: do not run these checks.
        options: also check each block with each of its parameters at another value.
        watch: called with each outcome at once, and with the exception if the check failed.

    Raises:
        ValueError: ``expected_failures`` names a check that does not apply to any block.
    """
    chosen = pairs(blocks, only, without, options)
    found: list[Outcome] = []
    for (case, check), reason in zip(chosen, _expected_reasons(chosen, expected_failures), strict=True):
        outcome, error = _outcome(case, check, reason)
        found.append(outcome)
        if watch is not None:
            watch(outcome, error)
    return ConformanceReport(tuple(found))


def _outcome(case: BlockCase, check: Check, expected: str | None) -> tuple[Outcome, Exception | None]:
    start, failure = time.perf_counter(), None
    status: Status = "passed" if expected is None else "unexpected"
    reason = expected or ""
    try:
        check(case)
    except NotApplicable as nothing:
        status, reason = "not_applicable", str(nothing)
    except Exception as error:
        failure = error
        status, reason = ("failed", _in_one_line(error)) if expected is None else ("expected", expected)
    return Outcome(case.id, check_name(check), status, reason, round(time.perf_counter() - start, 3)), failure


def _in_one_line(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return first if isinstance(error, AssertionError) and first else f"{type(error).__name__}: {first}".rstrip(": ")


def _head(*titles: str) -> tuple[str, str]:
    return _row(*titles), _row(*("---" for _ in titles))


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
