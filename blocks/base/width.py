"""Sizes of a parameter relative to those at another width of the model."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WidthMultipliers:
    """Sizes of a parameter relative to those at the base width.

    Attributes:
        axes: of each axis.
        fan_in: of the inputs that an output entry sums over: 1 for vectors, and for tables, which are looked up.
        fan_out: of the outputs.
    """

    axes: tuple[float, ...]
    fan_in: float
    fan_out: float

    def base_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape at the base width, rounded."""
        return tuple(max(1, round(size / ratio)) for size, ratio in zip(shape, self.axes, strict=True))
