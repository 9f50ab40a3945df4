"""Blocks from other packages: found by entry point, or named on the command line; never by a recipe."""

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points

GROUP = "blockformer.blocks"


class PluginError(ImportError):
    """A plug-in cannot be imported or breaks the contract; the message names it and says why."""


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
            raise PluginError(f"plug-in {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    return names
