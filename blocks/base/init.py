"""The slot of initial values."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import Generator, Tensor

from blocks.base.width import WidthMultipliers
from registry import Block, Slot

Role = Literal["matrix", "output", "embedding"]


class Init(Block, ABC):
    """Draws initial values, one parameter at a time.

    Attributes:
        base_width: the model width at which values and learning rates are those that are given; at other widths values
            are scaled by ``width_factor``, optimizers scale their rates, and blocks the constants of their forward
            pass by ``site.width_multiplier``. None: nothing depends on the width.
    """

    slot = Slot("init", "Draws initial values, one parameter at a time.", parent_arguments=())
    base_width: int | None = None

    @abstractmethod
    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        """Fill ``weight`` in place.

        Args:
            weight: float32 on CPU; a matrix (..., out, in) or an embedding (rows, width).
            role: ``output`` is a matrix whose result is added to the residual stream.
            depth: number of layers of the stack, 1 outside a stack.
            generator: seeded by (seed, parameter name).
        """

    @abstractmethod
    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        """Standard deviation of ``draw`` for a parameter of ``shape``."""

    def width_factor(self, shape: Sequence[int], role: Role, depth: int, width: WidthMultipliers) -> float:
        """Factor on the values of ``draw`` in a model of another width than ``base_width``."""
        return 1.0
