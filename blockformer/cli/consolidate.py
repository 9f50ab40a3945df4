"""`blockformer consolidate`: one file of a sharded checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from blockformer.cli.parser import Parser

DESCRIPTION = """\
Write a sharded checkpoint, a file with a folder of parts beside it (--run.checkpoint sharded), as one file, from which
a run can continue. All other commands take a sharded checkpoint as it is; one file is easier to copy."""


def main(arguments: Sequence[str]) -> int:
    """Write the file. Returns 0.

    Raises:
        UserError: the checkpoint or a part of it is missing or damaged, or it is one file already.
    """
    parser = Parser(prog="blockformer consolidate", description=DESCRIPTION)
    parser.add_argument("path", metavar="PATH", type=Path, help="checkpoint, or run folder (its best, else its last)")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the checkpoint to write")
    options = parser.parse_args(arguments)
    from blockformer.training.consolidation import consolidate  # imported late: --help then needs no torch
    from registry.text import shortened

    tensors, files = consolidate(options.path, options.out)
    print(f"{shortened(options.out)}: {tensors} tensors of {files} file{'s' * (files != 1)}")
    return 0
