"""`blockformer fit`, `validate`, `test` and `predict`: Lightning's command line around a recipe."""

import logging
import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from blockformer.cli.fit_help import page

if TYPE_CHECKING:
    from blockformer.cli.lightning import TrainingCLI

NOT_FOR_USERS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "It is recommended to use `self.log.*sync_dist=True",  # these figures are of all ranks already
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    "Couldn't infer the batch indices",
    r"The number of training batches .* is smaller than the logging interval",  # the last step is always reported
)
PLAINER = (
    (r'Parser key "([\w.]+)": ?', r"--\1: "),
    (r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", r"expected \1\2"),
    (r"\. Got value: (.*)$", r", not \1"),
)


def main(arguments: Sequence[str]) -> int:
    """Run one of the four.

    Args:
        arguments: the verb and what follows it.

    Returns:
        0; 1 if the run failed; 2 if the user can mend what is wrong; 128 + the number of the signal that stopped it.

    Raises:
        RecipeError, UserError, DataError: as for 2.
    """
    if {"-h", "--help"} & set(arguments) and arguments[-1] != "all":
        print(page(arguments[0]), end="")
        return 0
    from blockformer.data.processes import is_first
    from blockformer.errors import DataError, UserError
    from blockformer.training.callbacks import InterruptedRun, NonFiniteError
    from registry import RecipeError

    try:
        run(arguments)
    except InterruptedRun as stop:
        return _leave(f"{stop}; continue with --ckpt_path last", stop.exit_code)
    except NonFiniteError as error:
        return _leave(f"the run failed: {error}", 1)
    except OSError as error:
        if not is_first() or not error.strerror:
            raise
        return _leave(f"the run failed: {error.filename or 'a file'}: {error.strerror}", 1)
    except (UserError, RecipeError, DataError):
        if is_first():
            raise
        return 2  # the first process says what is wrong
    return 0


def run(arguments: Sequence[str]) -> "TrainingCLI":
    """Do what :func:`main` does, for callers in Python: errors are raised.

    Raises:
        UserError: the command line is wrong, or what it asks for does not fit together.
    """
    from blockformer.cli.lightning import TrainingCLI
    from blockformer.cli.request import read_request
    from blockformer.errors import UserError

    _quieten()
    arguments = list(arguments)
    if arguments[-2:] == ["--help", "all"]:
        arguments[-2:] = ["--recipe", "gpt2", "--help"]  # any recipe will do to make the parser
    request = read_request(arguments[0], arguments[1:])
    try:
        return TrainingCLI(request)
    except ArgumentError as error:
        raise UserError(readable(str(error), request.options)) from error


def readable(message: str, options: Sequence[str]) -> str:
    """Jsonargparse's message on one line, in terms of options, and with the nearest one that exists."""
    text = " ".join(message.split())
    if found := re.search(r"(Parser key .*?:).*(Problem with given class_path.*?)(?: - |$)", text):
        text = f"{found[1]} {found[2]}"
    elif "Does not validate against any of the Union" in text:
        literals = ", ".join(re.findall(r"typing\.Literal\[(.*?)\](?=[,\]])", text.partition("Errors:")[0]))
        text = f"{text.partition(':')[0]}: not an accepted value" + (f"; accepted are {literals}" if literals else "")
    for pattern, replacement in PLAINER:
        text = re.sub(pattern, replacement, text)
    if found := re.search(r"unrecognized arguments: (\S+)|does not accept option '(\S+)'", text, re.IGNORECASE):
        option = found[1].partition("=")[0] if found[1] else f"--{found[2]}"
        close = get_close_matches(option, options, n=1, cutoff=0.5)
        return f"there is no option {option}" + (f"; did you mean {close[0]}?" if close else "")
    return text


def _leave(message: str, status: int) -> int:
    """Say it once; other ranks end quietly, since the launcher kills the first one if it sees another fail."""
    from blockformer.data.processes import is_first

    if not is_first():
        return 0
    print(message, file=sys.stderr)
    return status


def _quieten() -> None:
    """Keep Lightning's tips and deprecations of others out of the way; its warnings about the run stay."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
