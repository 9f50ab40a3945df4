"""The argument parser of the commands, and options that several of them have."""

import argparse
import sys
from typing import NoReturn

MOST_DIGITS = 18  # of a number on the command line


class CommandFailedError(Exception):
    """A command failed in an expected way; the message is one line.

    Args:
        message: what failed.
        status: the exit status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps line breaks in its texts and reports an error as one line."""

    def __init__(self, *, prog: str, description: str, usage: str | None = None, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit with status 2."""
        from registry.text import shortened  # here, so that `--help` answers without pydantic

        print(f"{self.prog}: {shortened(message, 1000)} (see `{self.prog} --help`)", file=sys.stderr)
        sys.exit(2)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add ``--set KEY=VALUE``, which changes a recipe and may be repeated."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change the recipe, e.g. --set decoder.depth=4; may be repeated, applied in order",
    )


def add_format(parser: argparse.ArgumentParser, *formats: str) -> None:
    """Add ``--format`` with these choices; the first is the default."""
    parser.add_argument("--format", choices=formats, default=formats[0], help=f"output format; default: {formats[0]}")


def positive(text: str) -> int:
    """A whole number above 0, for ``type=``."""
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, not {text!r}")
    return int(text)
