"""What blocks ask of the registry, where there is none: a block built by code needs no recipe to be read.

In an exported folder this stands in the place of the package `registry`.
"""

from collections.abc import Callable
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
    """Marks what a recipe would say by the name of a block; here a class or a partial of one is given."""


class Runtime:
    """Marks a parameter that says how a model is computed and not which model it is."""


def register(name: str) -> Callable[[B], B]:
    """Leave the block as it is: nothing looks for it by name."""
    return lambda block: block
