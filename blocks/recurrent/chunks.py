"""A decaying recurrence in chunks: dense products within a chunk, and a state passed between chunks.

Shapes: N chunks of C tokens; G is 1 for one decay per head and K for one per key channel; B, H, K and V as in
blocks.base.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST, SHORT = 64, 16


def layout(length: int, *, channels: bool = False) -> tuple[int, int]:
    """Number of chunks of at most LONGEST tokens, and of tokens in each.

    Args:
        length: number of tokens.
        channels: chunks for decays per channel, which are halved again and again: a power of two tokens.
    """
    if channels:
        size = 1 if length <= 1 else SHORT if length <= SHORT else LONGEST
        return max(1, -(-length // size)), size
    count = max(1, -(-length // LONGEST))
    return count, max(1, -(-length // count))


def split(x: Tensor, chunks: tuple[int, int]) -> Tensor:
    """(B, H, T, ...) -> (B, H, N, C, ...), padded with zeros at the end."""
    count, size = chunks
    padding = [0, 0] * (x.ndim - 3) + [0, count * size - x.shape[2]]
    return F.pad(x, padding).view(*x.shape[:2], count, size, *x.shape[3:])


def joined(x: Tensor, length: int) -> Tensor:
    """The inverse of :func:`split`."""
    return x.flatten(2, 3)[:, :, :length]


class Decays(NamedTuple):
    """Decay factors between the tokens that write to the state and those that read it; 0 between documents.

    Attributes:
        total: (B, H, N, C, G), logarithm of the factor from the start of the chunk to each token.
        visible: (B or 1, 1, N or 1, C, C) bool, from the writing token (last axis) to the reading one: it is not later,
            and of the same document.
        from_start: (B, H, N, C, G), from the state before the chunk to each token.
        to_end: (B, H, N, C, G), from each token to the state after the chunk.
        whole: (B, H, N, G, 1), from the state before the chunk to the state after it.
    """

    total: Tensor
    visible: Tensor
    from_start: Tensor
    to_end: Tensor
    whole: Tensor

    def products(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Products of a row of each reading token with a column of each writing one, decayed in between.

        Args:
            rows: (B, H, N, C, K).
            columns: (B, H, N, C, K).

        Returns:
            (B, H, N, C, C), 0 where a token is not visible.
        """
        if self.total.shape[-1] > 1:
            return _by_halves(rows, columns, self.total) * self.visible
        return (rows @ columns.transpose(-2, -1)) * self.between()

    def between(self) -> Tensor:
        """With one decay per head: from the writing token (last axis) to the reading one, (B, H, N, C, C)."""
        total = self.total[..., 0]
        return (total[..., :, None] - total[..., None, :]).masked_fill(~self.visible, -torch.inf).exp()


def _by_halves(rows: Tensor, columns: Tensor, total: Tensor) -> Tensor:
    """:meth:`Decays.products` with decays per channel; 0 for later tokens.

    A decay from one half of the tokens to the other is a product of one before and one after the middle, neither of
    which is above 1, so nothing overflows, however fast a channel decays.
    """
    blocks, half = (rows * columns).sum(dim=-1)[..., None, None], 1  # each token with itself, (B, H, N, C, 1, 1)
    while half < rows.shape[-2]:
        pairs = (*rows.shape[:-2], rows.shape[-2] // (2 * half), 2, half)
        reads = rows.reshape(*pairs, rows.shape[-1])[..., 1, :, :]
        writes = columns.reshape(*pairs, columns.shape[-1])[..., 0, :, :]
        before, after = total.reshape(*pairs, total.shape[-1]).unbind(-3)
        middle = before[..., -1:, :]
        across = (reads * (after - middle).exp()) @ (writes * (middle - before).exp()).transpose(-2, -1)
        first, second = blocks.reshape(*pairs, half).unbind(-3)
        blocks = torch.cat([F.pad(first, (0, half)), torch.cat([across, second], dim=-1)], dim=-2)
        half *= 2
    return blocks.squeeze(-3)


def products_flops(size: int, key_dim: int, *, channels: bool = False) -> int:
    """FLOPs of the matrix products in :meth:`Decays.products`, for a chunk of ``size``."""
    return key_dim * size * (size - 1) if channels else 2 * key_dim * size * size


def decays(logs: Tensor, chunks: tuple[int, int], documents: Tensor | None = None) -> Decays:
    """Compute the decay factors of all chunks.

    Args:
        logs: (B, H, T, G), logarithm of the factor on the state before each token writes, 0 or less.
        chunks: :func:`layout` of the tokens.
        documents: (B, T) int, a different number for each document; None: one document.
    """
    total = split(logs, chunks).cumsum(dim=-2)  # (B, H, N, C, G)
    visible = torch.ones(chunks[1], chunks[1], dtype=torch.bool, device=logs.device).tril()[None, None, None]
    last_total = total[..., -1:, :]
    from_start, to_end, whole = total.exp(), (last_total - total).exp(), last_total.transpose(-2, -1).exp()
    if documents is not None:
        document = split(documents[:, None], chunks)  # (B, 1, N, C)
        first, last = document[:, :, :1, :1], document[..., -1:]
        before = torch.cat([first, last[:, :, :-1]], dim=2)  # (B, 1, N, 1), the document of the state before each chunk
        visible = visible & (document[..., :, None] == document[..., None, :])
        from_start, to_end, whole = (
            from_start * (document == before)[..., None],
            to_end * (document == last)[..., None],
            whole * (last == before)[..., None],
        )
    return Decays(total, visible, from_start, to_end, whole)
