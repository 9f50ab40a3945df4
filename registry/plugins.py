"""Blocks from other packages: found by entry point, or named on the command line; never by a recipe."""

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import PurePath

GROUP = "blockformer.blocks"


class PluginError(ImportError):
    """A plug-in cannot be imported or breaks the contract; the message names it and says why."""


def _module_of(file: str) -> str:
    """The module of a file below the working directory: ``own.blocks`` of ``own/blocks.py``; of others its stem."""
    path = PurePath(file).with_suffix("")
    return path.name if path.is_absolute() or ".." in path.parts else ".".join(path.parts)


def load_installed() -> list[str]:
    """Import the module of every installed entry point in the group ``blockformer.blocks``; importing registers.

    Raises:
        PluginError: one of them cannot be imported.
    """
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return load_named(point.value for point in found)


def load_named(modules: Iterable[str]) -> list[str]:
    """Import modules that register blocks.

    Raises:
        PluginError: one of them cannot be imported.
    """
    names = list(modules)
    for name in names:
        try:
            import_module(name)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and name.endswith(".py"):
                raise PluginError(f"plug-in {name!r} is a file: give its module, {_module_of(name)!r}") from None
            raise PluginError(f"plug-in {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    return names
