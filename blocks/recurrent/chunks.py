"""A decaying recurrence in chunks: dense products within a chunk, and a state passed between chunks.

Shapes: N chunks of C tokens; B, H, K and V as in blocks.base.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST = 64


def layout(length: int) -> tuple[int, int]:
    """Number of chunks of at most LONGEST tokens, and of tokens in each."""
    count = max(1, -(-length // LONGEST))
    return count, max(1, -(-length // count))


def split(x: Tensor) -> Tensor:
    """(B, H, T, ...) -> (B, H, N, C, ...), padded with zeros at the end."""
    count, size = layout(x.shape[2])
    padding = [0, 0] * (x.ndim - 3) + [0, count * size - x.shape[2]]
    return F.pad(x, padding).view(*x.shape[:2], count, size, *x.shape[3:])


def joined(x: Tensor, length: int) -> Tensor:
    """The inverse of :func:`split`."""
    return x.flatten(2, 3)[:, :, :length]


class Decays(NamedTuple):
    """Decay factors between the tokens that write to the state and those that read it; 0 between documents.

    Attributes:
        between: (B, H, N, C, C), from the writing token (last axis) to the reading one; 0 for later writers.
        from_start: (B, H, N, C, 1), from the state before the chunk to each token.
        to_end: (B, H, N, C, 1), from each token to the state after the chunk.
        whole: (B, H, N, 1, 1), from the state before the chunk to the state after it.
    """

    between: Tensor
    from_start: Tensor
    to_end: Tensor
    whole: Tensor


def decays(logs: Tensor, documents: Tensor | None = None) -> Decays:
    """Compute the decay factors of all chunks.

    Args:
        logs: (B, H, T), logarithm of the factor on the state before each token writes, 0 or less.
        documents: (B, T) int, a different number for each document; None: one document.
    """
    total = split(logs).cumsum(dim=-1)  # (B, H, N, C)
    later = torch.ones(total.shape[-1], total.shape[-1], dtype=torch.bool, device=logs.device).triu(1)
    between = (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()
    from_start, to_end, whole = total.exp(), (total[..., -1:] - total).exp(), total[..., -1:].exp()
    if documents is not None:
        document = split(documents[:, None])  # (B, 1, N, C)
        first, last = document[:, :, :1, :1], document[..., -1:]
        before = torch.cat([first, last[:, :, :-1]], dim=2)  # (B, 1, N, 1), the document of the state before each chunk
        between = between * (document[..., :, None] == document[..., None, :])
        from_start, to_end, whole = (
            from_start * (document == before),
            to_end * (document == last),
            whole * (last == before),
        )
    return Decays(between, from_start[..., None], to_end[..., None], whole[..., None])
