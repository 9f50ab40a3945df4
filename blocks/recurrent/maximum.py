"""A running maximum, by which recurrences with exponential gates stay within the range of floats."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.recurrent.base import RecurrentState, Rows


class StabilisedState(RecurrentState):
    """The cached state of a recurrence whose memory is stored times exp(-maximum).

    Attributes:
        maximum: (B, C), the running maximum; None: no token so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maximum: Tensor | None = None

    def reorder(self, rows: Tensor) -> None:
        super().reorder(rows)
        if self.maximum is not None:
            self.maximum = self.maximum[rows]

    def mark(self) -> Any:
        return super().mark(), self.maximum

    def restore(self, mark: Any, kept: int = 0) -> None:
        inner, self.maximum = mark
        super().restore(inner, kept)


def running_maximum(x: Tensor, drop: Tensor, rows: Rows, before: Tensor, start: float) -> tuple[Tensor, Tensor]:
    """All m_t = max(m_(t-1) - drop_t, x_t) and m_(t-1).

    With D_t the sum of ``drop`` up to t, m_t + D_t is the largest x_s + D_s so far. m is exact up to the spacing of
    floats at the size of D; who uses the same m in all places cancels it, and needs no gradient of it.

    Args:
        x: (B, T, C), in the order of ``rows``.
        drop: (B or 1, T or 1, C), at least 0.
        rows: the arrangement of padding and documents.
        before: (B, C), m before the first token.
        start: m before a document that begins inside a row.

    Returns:
        m_t and m_(t-1), (B, T, C) each.
    """
    if not x.shape[1]:
        return x, x
    begins = first_tokens(rows, x)
    earlier = torch.full_like(x, start)
    earlier[:, 0] = before
    dropped = drop.expand_as(x).cumsum(dim=1)
    raised = torch.where(begins, torch.maximum(x, earlier - drop), x) + dropped
    if rows.documents is not None:  # each document is raised above those before it
        spread = raised.amax(dim=1, keepdim=True) - raised.amin(dim=1, keepdim=True) + 1
        dropped = dropped + spread * begins.cumsum(dim=1)
        raised = raised + spread * begins.cumsum(dim=1)
    m = raised.cummax(dim=1).values - dropped
    previous = torch.where(begins, earlier, F.pad(m[:, :-1], [0, 0, 1, 0]))
    return m, previous


def first_tokens(rows: Rows, x: Tensor) -> Tensor:
    """(B, T, 1) bool, True for the first token of a row's part and of each document in it."""
    inside = x.new_zeros(x.shape[0], max(0, x.shape[1] - 1), dtype=torch.bool)
    if rows.documents is not None:
        inside = rows.documents[:, 1:] != rows.documents[:, :-1]
    return F.pad(inside, (1, 0), value=True)[:, : x.shape[1], None]


def last_token(x: Tensor, rows: Rows, before: Tensor) -> Tensor:
    """(B, C): the value of (B, T, C) at each row's last token, or ``before`` (B, C) in rows of padding."""
    if not x.shape[1]:
        return before
    if rows.lengths is None:
        return x[:, -1].clone()
    index = (rows.lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[2])
    return torch.where((rows.lengths > 0)[:, None], x.gather(1, index)[:, 0], before)
