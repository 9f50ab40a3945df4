"""Replacement for the package ``registry`` in an exported folder.

Blocks import some names from the registry. In an exported folder the model is built by code and no recipe is read, so
these names need no implementation.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar, TypeVar

from registry.capabilities import Capabilities
from registry.slots import Slot

B = TypeVar("B")

Positive = NonNegative = Depth = int
PositiveFloat = NonNegativeFloat = Probability = Share = float


class Block:
    """Base class of all blocks."""

    slot: ClassVar[Slot]
    paper: ClassVar[str] = ""
    capabilities: ClassVar[Capabilities] = Capabilities()


class AsRecipe:
    """Type marker of parameters for which a recipe has a block; here their value is a class or a partial of one."""


class Runtime:
    """Type marker of parameters that affect how a model is computed, but not its result."""


class ParameterError(ValueError):
    """Parameters of a block do not fit; exported models have those that did."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Return no advice: an exported model reads no recipe."""
    return ""


def register(name: str) -> Callable[[B], B]:
    """Return the block unchanged: here blocks are not found by name."""
    return lambda block: block
