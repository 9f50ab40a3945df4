"""The command `blockformer`: one module a verb, each imported only when it is used."""

import os
import sys

from blockformer import is_the_command, signals


def fill_closed_streams() -> None:
    """Open the null device where standard input, output or error is closed, before another file gets its number."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))


if is_the_command():  # not in a program that imports it; before anything is loaded, so that Ctrl-C shows no traceback
    fill_closed_streams()
    signals.install()
