"""The command `blockformer`: find the verb, load plug-ins, and turn an exception into one line and an exit status."""

import argparse
import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from difflib import get_close_matches
from importlib import import_module, metadata

from blockformer import signals
from blockformer.cli.parser import CommandFailedError, Parser
from blockformer.training.output import kept_output

VERBS = {
    "fit": "train the model that a recipe describes",
    "find-lr": "suggest a learning rate for a run",
    "validate": "score a trained model on the validation data",
    "test": "score a trained model on the test data",
    "predict": "write a trained model's predictions for the test data to a file",
    "compare": "train variants with several seeds and say which is better",
    "runs": "list runs, by any key of their configuration",
    "generate": "generate text with a trained model",
    "evaluate": "score a trained model on tasks of lm-evaluation-harness",
    "average": "write the mean of several checkpoints",
    "merge": "fold the adapters of a checkpoint into its weights",
    "consolidate": "write a sharded checkpoint as one file",
    "import": "convert a Hugging Face folder to a recipe and its weights",
    "export": "convert a model to a folder that transformers loads",
    "recipes": "list the built-in recipes, published models among them",
    "check": "check recipes and list every problem",
    "show": "show the model of a recipe: blocks, shapes, parameters, FLOPs, cache, memory",
    "explain": "show what a model computes for a text, step by step, as a page",
    "plan": "say which strategies fit on some devices, and how long a step takes",
    "diff": "compare two models: blocks, parameters, FLOPs, cache",
    "blocks": "list the slots, the blocks in them and their parameters",
    "test-block": "run the conformance suite on a block",
    "conformance": "generate recipes and run the conformance checks on each",
    "schema": "write the JSON Schema of recipes (for editors) and the block reference",
}
MODULES = {"import": "import_", "test-block": "test_block", "find-lr": "find_lr"}  # verbs that cannot be module names
TRAINER = ("fit", "find-lr", "validate", "test", "predict")
ROOMS = ("registry", "blocks", "blockformer")
LONGEST = 300  # characters of an unexpected error's message
CORRECTABLE = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
PIPE_CLOSED = 141  # what a shell reports for SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what follows the program's name; None: those of this process.

    Returns:
        The exit status: 0; 2 if the user can correct what is wrong; 128 + the number of a signal that stopped the
        command; 1 if something else failed. The reason is one line on stderr; with `--debug` a traceback precedes it.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    with ExitStack() as stack:
        if _verb(words) in TRAINER:
            stack.enter_context(kept_output())
        try:
            with signals.stopping(_program(words)):
                return _status(words)
        except signals.Stopped as stopped:
            _say(f"{_program(words)}: {stopped}")
            return stopped.status


def _status(words: list[str]) -> int:
    """Run a command and print why it failed."""
    debug = "--debug" in words
    try:
        status = _run([word for word in words if word != "--debug"])
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return PIPE_CLOSED
    except KeyboardInterrupt as interrupt:  # raised by other code than our handler
        raise signals.Stopped(signal.SIGINT) from interrupt
    except Exception as error:
        if stopped := signals.received():  # in the middle of an import, for example, which hides it
            raise stopped from error
        _flush_output()
        if debug:
            _say("".join(traceback.format_exception(error)).rstrip())
        status, message = _explained(error, words, debug)
        _say(message)
    return status


def _flush_output() -> None:
    """Write what is waiting for stdout, if it can be written."""
    try:
        sys.stdout.flush()
    except (ValueError, AttributeError):  # it is closed, or there is none
        pass
    except OSError:
        _discard_output()


def _discard_output() -> None:
    """What is waiting for stdout goes nowhere, or the interpreter tries again at exit and ends with status 120."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str) -> None:
    """Print to stderr, if it can be written."""
    with suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)


def _verb(words: Sequence[str]) -> str:
    return next((word for word in words if word in VERBS), "")


def _program(words: Sequence[str]) -> str:
    return f"blockformer {_verb(words)}".rstrip()


def _explained(error: Exception, words: list[str], debug: bool) -> tuple[int, str]:
    """The exit status for an exception, and what to print about it."""
    if isinstance(error, CommandFailedError):
        return error.status, str(error)
    from registry import RecipeError  # here, so that `--help` answers without pydantic
    from registry.text import printable, shortened

    if isinstance(error, RecipeError):
        return 2, str(error)  # one printable line a problem
    if any(cls.__module__.partition(".")[0] in ROOMS for cls in type(error).__mro__):
        return 2, printable(error)  # the project defines exception classes only for what a user can correct
    failed = f"{_program(words)} failed"
    if isinstance(error, OSError) and error.strerror:
        status = 2 if error.errno in CORRECTABLE else 1
        return status, f"{failed}: {shortened(error.filename or 'a file')}: {error.strerror}"
    if isinstance(error, MemoryError):
        return 1, f"{failed}: not enough memory"
    reason = " ".join(str(error).split())[:LONGEST]
    what = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    parts = [what, *(note.strip() for note in getattr(error, "__notes__", []))]
    return 1, f"{failed}; this is a bug: {printable(', '.join(parts))}" + ("" if debug else "; --debug shows where")


def _run(arguments: list[str]) -> int:
    plugins, arguments = _without_plugins(arguments)
    parser = _parser()
    options = parser.parse_args(arguments[: 1 + next((i for i, a in enumerate(arguments) if not a.startswith("-")), 0)])
    if options.version:
        print(f"blockformer {_version()}")
        return 0
    if options.verb is None:
        parser.print_help(sys.stderr)
        return 2
    if options.verb not in VERBS:
        close = get_close_matches(options.verb, VERBS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(VERBS)}"
        parser.error(f"there is no command {options.verb!r}; {hint}")
    rest = arguments[arguments.index(options.verb) + 1 :]
    if plugins or not {"-h", "--help"} & set(rest):
        _load(plugins)
    if options.verb in TRAINER:
        return import_module(f"blockformer.cli.{MODULES.get(options.verb, 'fit')}").main([options.verb, *rest])
    return import_module(f"blockformer.cli.{MODULES.get(options.verb, options.verb)}").main(rest)


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer",
        usage="blockformer [--plugin MODULE] [--debug] COMMAND ...",
        description="Compose Transformers from interchangeable blocks with YAML recipes, train and compare them.",
        epilog="\n".join(["commands:", *(f"  {verb:<14}{meaning}" for verb, meaning in VERBS.items())])
        + "\n\n`blockformer COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument(
        "--plugin",
        metavar="MODULE",
        help="import a module that registers blocks; before or after COMMAND; may be repeated",
    )
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error; before or after COMMAND")
    parser.add_argument("verb", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def _without_plugins(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The modules given with ``--plugin``, and the other arguments."""
    plugins: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, value = argument.partition("=")
        if option != "--plugin":
            rest.append(argument)
        elif module := value if equals else next(remaining, ""):
            plugins.append(module)
        else:
            _parser().error("--plugin needs the name of a module")
    return plugins, rest


def _load(plugins: list[str]) -> None:
    """Import the installed plug-ins and the named ones, which may be in the working directory."""
    from registry.plugins import load_installed, load_named  # not at the top: `--help` answers without pydantic

    if plugins and str(os.getcwd()) not in sys.path:  # noqa: PTH109
        sys.path.append(os.getcwd())  # noqa: PTH109
    load_installed()
    load_named(plugins)


def _version() -> str:
    try:
        return metadata.version("blockformer")
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
