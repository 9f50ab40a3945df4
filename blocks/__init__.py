"""Blocks: the interchangeable parts of a model, one folder per slot. Importing this package registers all of them."""

from importlib import import_module
from pathlib import Path

from blocks.base import Cache, Context, Site
from registry import RegistrationError

__all__ = ["Cache", "Context", "Site"]


def _register_all() -> None:
    """Import every module in the folders of the slots, so that each registers its blocks.

    Raises:
        RegistrationError: a block breaks the constructor contract; the message names file and line.
        ImportError: a module cannot be imported; the message names its file.
    """
    for file in sorted(Path(__file__).parent.glob("[!_]*/[!_]*.py")):
        if file.parent.name == "base":  # contracts, not blocks
            continue
        try:
            import_module(f"{__name__}.{file.parent.name}.{file.stem}")
        except RegistrationError:  # names its file
            raise
        except Exception as error:
            raise ImportError(f"{file}: {type(error).__name__}: {error}") from error


_register_all()
