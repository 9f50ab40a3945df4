"""The tokens of a batch as a recurrence needs them: padding out of the way, texts told apart."""

from typing import NamedTuple

import torch
from torch import Tensor

from blocks.base import Context


class Rows(NamedTuple):
    """Where the tokens go that are not padding, and which text each belongs to.

    Attributes:
        order: (B, T) int, the token that stands at each place once all padding stands last; None: there is none.
        place: (B, T) int, the place of each token in that order.
        lengths: (B,) int, number of tokens that are not padding; None: all.
        texts: (B, T) int, in the new order, grows by one where another document begins; None: one text a row.
    """

    order: Tensor | None = None
    place: Tensor | None = None
    lengths: Tensor | None = None
    texts: Tensor | None = None

    def arrange(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> the same with all padding last."""
        return x if self.order is None else _taken(x, self.order)

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`arrange`."""
        return x if self.place is None else _taken(x, self.place)

    def tokens(self, length: int) -> Tensor | None:
        """(B, T) bool, True for a token, False for padding, in the new order; None: no padding."""
        if self.lengths is None:
            return None
        return torch.arange(length, device=self.lengths.device)[None] < self.lengths[:, None]


def rows_of(context: Context) -> Rows:
    """The new tokens of this forward; made once."""
    return context.once("rows", lambda: _rows(context))


def _rows(context: Context) -> Rows:
    order = place = lengths = texts = None
    if context.attention_mask is not None:
        tokens = context.attention_mask[:, context.offset :]
        order = (~tokens).long().argsort(dim=1, stable=True)
        place, lengths = order.argsort(dim=1), tokens.sum(dim=1)
    if context.documents is not None:
        documents = context.documents if order is None else context.documents.gather(1, order)
        begins = documents[:, 1:] != documents[:, :-1]
        texts = torch.nn.functional.pad(begins.long().cumsum(dim=1), (1, 0))[:, : documents.shape[1]]
    return Rows(order, place, lengths, texts)


def _taken(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index.view(*index.shape, *[1] * (x.ndim - 2)).expand_as(x))
