"""`blockformer find-lr`: suggest a learning rate for a run, by a range test."""

import sys
from collections.abc import Sequence
from typing import Any

from blockformer.cli.fit import run_trainer
from blockformer.cli.parser import CommandFailedError

HELP = """\
usage: blockformer find-lr --recipe RECIPE [--from 1e-6] [--to 1] [--steps 100] [--out FILE] [options of fit]

Train as `blockformer fit` does with the same options, with a learning rate that grows from step to step, and suggest
the rate at which the loss falls fastest. It stops when the loss has diverged, and leaves no run.

  --from 1e-6                learning rate of the first step
  --to 1                     learning rate of the last step
  --steps 100                optimizer steps; the rate grows by the same factor in each
  --out FILE                 write the curve to a file: .csv or .json

All options of `blockformer fit` are allowed, so that its command line serves; see `blockformer fit --help`. Those of
the length of the run, its schedule, its validations, its folder, its loggers and callbacks have no effect, and a run
that continues (--ckpt_path, --decay-from) is refused. Parameters with a learning rate of their own
(--optimizer.groups) keep their ratio to --optimizer.lr.
Exit status: 0; 1 if no rate can be suggested; 2 if an argument is wrong; 130, 143 or 129 if a signal stopped it.
"""


def main(arguments: Sequence[str]) -> int:
    """Print the curve and the suggestion.

    Args:
        arguments: `find-lr` and what follows it.

    Returns:
        0.

    Raises:
        CommandFailedError: no rate can be suggested, or the test failed (status 1), or a signal stopped it.
        Stopped: a signal stopped it before the first step.
        RecipeError, UserError, DataError: the user can correct what is wrong.
    """
    _, *rest = arguments
    if {"-h", "--help"} & set(rest):
        print(HELP, end="")
        return 0

    def work() -> None:
        from blockformer.cli.fit_command_line import read_arguments  # imported late: --help then needs no torch
        from blockformer.training.range_test_cli import RangeTestCLI

        done = RangeTestCLI(read_arguments("fit", rest))
        if done.first:
            _print(done.curve)

    return run_trainer(arguments, work)


def _print(curve: Any) -> None:
    """Print some rows of the curve, and what follows from it.

    Raises:
        CommandFailedError: the loss does not fall.
    """
    print(*curve.table(), sep="\n")
    if curve.diverged:
        print(f"stopped after step {len(curve.losses)} of {curve.planned}: the loss has diverged")
    if curve.suggestion is None:
        raise CommandFailedError(
            "no rate can be suggested: the loss does not fall by more than its noise from step to step; give more "
            "--steps, a larger batch, or another range (--from, --to)",
            1,
        )
    for remark in curve.remarks():
        print(f"note: {remark}", file=sys.stderr)
    print(f"lowest at {curve.rates[curve.lowest]:.2g}, of which a tenth is {curve.rates[curve.lowest] / 10:.2g}")
    print(f"suggested, where the loss falls fastest: --optimizer.lr {curve.suggestion:.2g}")
