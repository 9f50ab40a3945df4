"""`blockformer average`: the mean of several checkpoints."""

from collections.abc import Sequence
from pathlib import Path

from blockformer.cli.parser import Parser

DESCRIPTION = """\
Write a checkpoint whose weights are the mean of those of several checkpoints of one recipe: several of one run, or the
last ones of several runs. It can be validated, generate text, be exported, and start other runs (--init-from)."""


def main(arguments: Sequence[str]) -> int:
    """Write the mean. Returns 0.

    Raises:
        UserError: a checkpoint is missing or damaged, or they are of different models.
    """
    parser = Parser(prog="blockformer average", description=DESCRIPTION)
    parser.add_argument("checkpoints", metavar="CHECKPOINT", type=Path, nargs="+", help="two or more")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the checkpoint to write")
    options = parser.parse_args(arguments)
    from blockformer.training.average import average_checkpoints  # imported late: --help then needs no torch
    from registry.text import shortened

    made = average_checkpoints(options.checkpoints, options.out)
    print(f"{shortened(made)}: the mean of {len(options.checkpoints)} checkpoints")
    return 0
