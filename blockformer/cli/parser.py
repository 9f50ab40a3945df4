"""The argument parser of the commands, and options that several of them have."""

import argparse
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

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

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse, after refusing an option that is given twice, unless it is one that collects its values."""
        seen: set[argparse.Action] = set()
        for word in itertools.takewhile(lambda word: word != "--", sys.argv[1:] if args is None else args):
            action = self._option_string_actions.get(word.partition("=")[0])
            if action in seen and not isinstance(action, argparse._AppendAction | KeyValues):
                self.error(f"{word.partition('=')[0]} is given twice: give it once")
            if action is not None:
                seen.add(action)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, with the option that was probably meant, and exit with status 2."""
        if found := re.match(r"unrecognized arguments: (--[\w-]+)", message):
            close = get_close_matches(found[1], self._option_string_actions, n=1)
            message += f"; did you mean {close[0]}?" if close else ""
        from registry.text import shortened  # here, so that `--help` answers without pydantic

        print(f"{self.prog}: {shortened(message, 1000)} (see `{self.prog} --help`)", file=sys.stderr)
        sys.exit(2)


class KeyValues(argparse.Action):
    """Collects KEY=VALUE, each key once."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        given: list[str] = getattr(namespace, self.dest)
        key = str(values).partition("=")[0]
        if any(known.partition("=")[0] == key for known in given):
            parser.error(f"{option_string} {key} is given twice: give it once")
        setattr(namespace, self.dest, [*given, values])


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add ``--set KEY=VALUE``, which changes a recipe and may be repeated with other keys."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action=KeyValues,
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


def file_ending(*endings: str) -> Callable[[str], Path]:
    """A file to write whose name ends like this, for ``type=``: files of other kinds are never replaced."""

    def file(text: str) -> Path:
        if Path(text).suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(f"must be a file whose name ends in {' or '.join(endings)}, not {text!r}")
        return Path(text)

    return file


def last_value(options: Sequence[str], option: str) -> str | None:
    """The value that an option is given last."""
    found = None
    for place, item in enumerate(options):
        name, equals, value = item.partition("=")
        if name == option:
            found = value if equals else next(iter(options[place + 1 : place + 2]), None)
    return found
