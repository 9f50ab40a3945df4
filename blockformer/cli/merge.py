"""`blockformer merge`: a checkpoint without adapters."""

from collections.abc import Sequence
from pathlib import Path

from blockformer.cli.parser import Parser

DESCRIPTION = """\
Write a checkpoint whose adapters are folded into the weights of their projections: a model of the recipe without
adapters that computes the same, up to rounding. It can be validated, generate text, be exported
and start other runs (--init-from). `blockformer export` and --init-from merge by themselves."""


def main(arguments: Sequence[str]) -> int:
    """Write the merged checkpoint. Returns 0.

    Raises:
        UserError: the checkpoint is missing or damaged, or its model has no adapters.
    """
    parser = Parser(prog="blockformer merge", description=DESCRIPTION)
    parser.add_argument("path", metavar="PATH", type=Path, help="checkpoint, or run folder (its best, else its last)")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the checkpoint to write")
    parser.add_argument("--plugin", metavar="MODULE", help="import a module that registers blocks; may be repeated")
    options = parser.parse_args(arguments)
    from blockformer.training.merge_checkpoint import merge_checkpoint  # imported late: --help then needs no torch
    from registry.text import shortened

    merged = merge_checkpoint(options.path, options.out)
    print(f"{shortened(options.out)}: {len(merged)} adapters folded into the weights of their projections")
    return 0
