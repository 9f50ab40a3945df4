"""The command `blockformer`: one module a verb, each imported only when it is asked for."""

from blockformer import is_the_command, signals
from blockformer.training.output import fill_closed_streams

if is_the_command():  # not in a program that imports it; before anything is loaded, so that Ctrl-C shows no traceback
    fill_closed_streams()
    signals.install()
