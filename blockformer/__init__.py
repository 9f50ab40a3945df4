"""Compose Transformers from interchangeable blocks: the public Python API.

    import blockformer as bf
    model = bf.build("gpt2")

Each name is imported when it is first used, so that `import blockformer` and `blockformer --help` load nothing heavy.
"""

import os.path
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any


def is_the_command() -> bool:
    """Whether this process is `blockformer ...` or `python -m blockformer...`."""
    if sys.argv[:1] == ["-m"]:  # while `python -m` imports the packages above its module
        module = next(iter(sys.orig_argv[sys.orig_argv.index("-m") + 1 :]), "")
        return module.partition(".")[0] == "blockformer"
    return bool(sys.argv) and os.path.basename(sys.argv[0]) in ("blockformer", "blockformer.exe")  # noqa: PTH119


if is_the_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until the handlers of blockformer.signals are installed, Ctrl-C ends the process without a traceback. Where it is
    # ignored, as in a shell's background, it stays so.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

if TYPE_CHECKING:
    from blockformer.assembly import build, check, load, load_recipe, merge, warm_start
    from blockformer.explanation import explain
    from blockformer.generation import generate
    from blockformer.studies import compare
    from blockformer.training.run import train

_HOMES = {
    "build": "blockformer.assembly",
    "check": "blockformer.assembly",
    "compare": "blockformer.studies",
    "explain": "blockformer.explanation",
    "generate": "blockformer.generation",
    "load": "blockformer.assembly",
    "load_recipe": "blockformer.assembly",
    "merge": "blockformer.assembly",
    "train": "blockformer.training.run",
    "warm_start": "blockformer.assembly",
}

__all__ = ["build", "check", "compare", "explain", "generate", "load", "load_recipe", "merge", "train", "warm_start"]


def _foreign_module() -> str:
    """What to do about a module of the user's that Python finds instead of our package `blocks` or `registry`."""
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120  (pathlib takes longer to import)
    for name in ("registry", "blocks"):
        ours = os.path.join(home, name, "__init__.py")  # noqa: PTH118
        if (module := sys.modules.get(name)) is not None:
            found = getattr(module, "__file__", None) or "a module without a file"
        else:
            spec = find_spec(name)
            found = ours if spec is None or spec.origin is None else spec.origin
        if os.path.realpath(found) != ours:
            return (
                f"blockformer has a package called {name!r}, but Python imports {found} instead: "
                "rename or move that file"
            )
    return ""


if problem := _foreign_module():
    if is_the_command():
        print(problem, file=sys.stderr)
        sys.exit(2)
    raise ImportError(problem)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'blockformer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
