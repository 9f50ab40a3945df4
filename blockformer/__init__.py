"""Compose Transformers from interchangeable blocks: the public Python API.

    import blockformer as bf
    model = bf.build("gpt2")

Each name is imported when it is first used, so that `import blockformer` and `blockformer --help` load nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockformer.assembly import build, check, load, load_recipe, warm_start
    from blockformer.generation import generate
    from blockformer.training.run import train

_HOMES = {
    "build": "blockformer.assembly",
    "check": "blockformer.assembly",
    "generate": "blockformer.generation",
    "load": "blockformer.assembly",
    "load_recipe": "blockformer.assembly",
    "train": "blockformer.training.run",
    "warm_start": "blockformer.assembly",
}

__all__ = ["build", "check", "generate", "load", "load_recipe", "train", "warm_start"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'blockformer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
