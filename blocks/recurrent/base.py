"""Base of recurrent mixers: cached state, the arrangement of padding and documents, and precision."""

from typing import NamedTuple

import torch
from torch import Tensor

from blocks.base import Context


class RecurrentState:
    """The cached state of a recurrent mixer, of fixed size; mixers replace its tensors and never write into them.

    Attributes:
        memory: the state of the recurrence, (B, H, K, V) or without heads (B, ...); None: no token so far.
        recent: (B, kernel - 1, C), the last inputs of a short convolution; None: no token so far.
    """

    def __init__(self) -> None:
        self.memory: Tensor | None = None
        self.recent: Tensor | None = None

    def reorder(self, rows: Tensor) -> None:
        if self.memory is not None:
            self.memory = self.memory[rows]
        if self.recent is not None:
            self.recent = self.recent[rows]

    @property
    def keeps(self) -> bool:
        return False

    def mark(self) -> tuple[Tensor | None, Tensor | None]:
        return self.memory, self.recent

    def restore(self, mark: tuple[Tensor | None, Tensor | None], kept: int = 0) -> None:
        self.memory, self.recent = mark


class Rows(NamedTuple):
    """The arrangement of a batch with all padding last, and the document of each token.

    Attributes:
        order: (B, T) int, index of the token at each index of the new order; None: no padding.
        place: (B, T) int, index of each token in the new order; None: no padding.
        lengths: (B,) int, number of tokens that are not padding; None: no padding.
        documents: (B, T) int, in the new order, increased by one where a document begins; None: one document per row.
    """

    order: Tensor | None = None
    place: Tensor | None = None
    lengths: Tensor | None = None
    documents: Tensor | None = None

    def arrange(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> the same shape with all padding last."""
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
    """The arrangement of this forward's tokens; computed once per forward."""
    return context.once("rows", lambda: _rows(context))


def _rows(context: Context) -> Rows:
    order = place = lengths = documents = None
    if context.attention_mask is not None:
        tokens = context.attention_mask[:, context.offset :]
        order = (~tokens).long().argsort(dim=1, stable=True)
        place, lengths = order.argsort(dim=1), tokens.sum(dim=1)
    if context.documents is not None:
        documents = context.documents if order is None else context.documents.gather(1, order)
        begins = documents[:, 1:] != documents[:, :-1]
        documents = torch.nn.functional.pad(begins.long().cumsum(dim=1), (1, 0))[:, : documents.shape[1]]
    return Rows(order, place, lengths, documents)


def _taken(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index.view(*index.shape, *[1] * (x.ndim - 2)).expand_as(x))
