"""`blockformer test-block`: the conformance suite on a block, of Blockformer or of a module of yours."""

import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blockformer.cli.parser import Parser
from blockformer.errors import UserError

if TYPE_CHECKING:
    from blockformer.conformance import Check, Outcome, Report, Subject


def main(arguments: Sequence[str]) -> int:
    """Run the checks, tell of each that does not simply pass, and end with 1 if one came out otherwise than said."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.report is not None and options.report.suffix not in (".json", ".md"):
        parser.error(f"--report writes a .json or a .md file, not {options.report}")
    report = _checked(options)
    if options.report is not None:
        _write(options.report, report)
    width = max((len(subject) for subject, *_ in report.by_subject()), default=0)
    for subject, passed, failed, expected in report.by_subject():
        words = ((passed, "passed"), (failed, "failed"), (expected, "failed as expected"))
        print(f"{subject:<{width}}  {', '.join(f'{count} {word}' for count, word in words if count)}")
    print(report.summary())
    return 0 if report.good else 1


def _checked(options: Namespace) -> "Report":
    from blockformer.cli.subjects import subjects_of
    from blockformer.conformance import run_checks  # this and torch only now, so that --help answers at once
    from blockformer.conformance.table import LONG

    subjects = subjects_of(options.block, options.params)
    only = _named(subjects, options.checks)
    progress = _Progress(options.traceback)
    try:
        return run_checks(
            subjects,
            expected_failures=dict(map(_reason, options.expected)),
            only=only,
            without=LONG if options.quick and only is None else (),
            options=not options.quick,
            watch=progress.tell,
        )
    except ValueError as error:  # of a check that is not there a failure is expected
        raise UserError(f"{error}; `--check` lists all names if it is given one that there is not") from None
    finally:
        progress.clear()


def _named(subjects: "list[Subject]", names: list[str]) -> "list[Check] | None":
    """The checks of these names; None, which stands for all, if there are no names."""
    from blockformer.conformance import checks
    from blockformer.conformance.table import name_of
    from registry.errors import nearest

    known = {name_of(check): check for subject in subjects for check in checks(subject)}
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"these apply: {', '.join(sorted(known))}"
            raise UserError(f"--check {name}: no check of this block is called so; {hint}")
    return [known[name] for name in names] or None


def _reason(text: str) -> tuple[str, str]:
    key, equals, reason = text.partition("=")
    if not (key and equals and reason):
        raise UserError(f"--expect-failure {text}: must have the form CHECK=REASON")
    return key.strip(), reason.strip()


class _Progress:
    """A line for each check that does not simply pass and, in a terminal, one that says what was done last."""

    def __init__(self, traceback: bool) -> None:
        self.traceback, self.done, self.live = traceback, 0, sys.stderr.isatty()

    def tell(self, outcome: "Outcome", error: Exception | None) -> None:
        from blockformer.conformance.outcomes import SIGNS

        self.done += 1
        self.clear()
        if outcome.status != "passed":
            print(f"{SIGNS[outcome.status]}: {outcome.id}: {outcome.reason}", flush=True)
        if error is not None and self.traceback:
            traceback.print_exception(error, file=sys.stdout)
        if self.live:
            print(f"{self.done} done, last {outcome.id}"[:100], end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the last line of progress away."""
        if self.live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _write(path: Path, report: "Report") -> None:
    from blockformer.files import write_text

    text = report.to_json() if path.suffix == ".json" else report.to_markdown()
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer test-block",
        description="Run every check that applies to a block: at every place where it can stand, and with each of its\n"
        "parameters at another value. What fails is said in a line each.",
        epilog="Exit status: 0 if all is as it was said, 1 if a check failed or passed against expectation, 2 if the\n"
        "block cannot be had. A class can say by `expected_failures` itself what does not hold for it.",
    )
    parser.add_argument(
        "block",
        metavar="BLOCK",
        help="MODULE:CLASS or MODULE, from the working directory too, or a registered SLOT/NAME",
    )
    parser.add_argument(
        "--param",
        dest="params",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="what a recipe would say about the block; may be repeated",
    )
    parser.add_argument(
        "--check", dest="checks", metavar="NAME", action="append", default=[], help="run this one; may be repeated"
    )
    parser.add_argument(
        "--expect-failure",
        dest="expected",
        metavar="CHECK=REASON",
        action="append",
        default=[],
        help="this check does not hold, by its name or by its id as printed; it must then fail; may be repeated",
    )
    parser.add_argument("--quick", action="store_true", help="no other parameters, and no check that takes long")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all outcomes there, as .json or as .md")
    parser.add_argument("--traceback", action="store_true", help="show where in the code each failure arose")
    return parser
