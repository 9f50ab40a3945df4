"""Projections that read a mixture of each token and the one before it."""

from typing import cast

from torch import Tensor

from blocks.base import Context, Mixer
from blocks.recurrent.base import RecurrentState, Rows, rows_of
from blocks.recurrent.convolution import short_convolution

MOST_CHANNELS = 2**16
"""Channels at most, as each has initial values of its own."""


class TokenShift(Mixer):
    """Parts of mixers whose projections read a mixture of each token and the one before it."""

    def arranged(self, x: Tensor, rows: Rows, width: int) -> Tensor:
        """(B, T, D) in the order of ``rows``."""
        checked = cast("Tensor", x.unflatten(-1, (width,)))  # plain broadcasting would repeat vectors of one channel
        return rows.arrange(checked)

    def shifted(self, x: Tensor, rows: Rows, state: RecurrentState | None) -> Tensor:
        """(B, T, D) -> the vector before each, 0 at the start of a document."""
        weight = x.new_tensor([1.0, 0.0]).expand(x.shape[2], 2)
        return short_convolution(x, weight, rows, state)

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        rows_of(context)
