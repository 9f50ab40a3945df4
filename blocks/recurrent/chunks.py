"""A decaying recurrence in chunks: dense products within a chunk, one state handed from chunk to chunk.

Shapes here: N chunks of C tokens; B, H, K and V as everywhere.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST = 64


def layout(length: int) -> tuple[int, int]:
    """Number of chunks and tokens in each, as few and as equal as can be."""
    count = max(1, -(-length // LONGEST))
    return count, max(1, -(-length // count))


def split(x: Tensor) -> Tensor:
    """(B, H, T, ...) -> (B, H, N, C, ...), the end filled with zeros."""
    count, size = layout(x.shape[2])
    padding = [0, 0] * (x.ndim - 3) + [0, count * size - x.shape[2]]
    return F.pad(x, padding).view(*x.shape[:2], count, size, *x.shape[3:])


def joined(x: Tensor, length: int) -> Tensor:
    """The inverse of :func:`split`."""
    return x.flatten(2, 3)[:, :, :length]


class Decays(NamedTuple):
    """What is left of one token's writing where another reads; nothing, if that is another text.

    Attributes:
        between: (B, H, N, C, C), of what the second wrote where the first reads; 0 if it is later.
        from_start: (B, H, N, C, 1), of the state before the chunk where each token reads.
        to_end: (B, H, N, C, 1), of what each token wrote in the state after the chunk.
        whole: (B, H, N, 1, 1), of the state before the chunk in the state after it.
    """

    between: Tensor
    from_start: Tensor
    to_end: Tensor
    whole: Tensor


def decays(logs: Tensor, texts: Tensor | None = None) -> Decays:
    """Sum up decays within chunks.

    Args:
        logs: (B, H, T), logarithm of the factor on the state before each token writes, 0 or less.
        texts: (B, T) int, another number for every text; None: one text.
    """
    total = split(logs).cumsum(dim=-1)  # (B, H, N, C)
    later = torch.ones(total.shape[-1], total.shape[-1], dtype=torch.bool, device=logs.device).triu(1)
    between = (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()
    from_start, to_end, whole = total.exp(), (total[..., -1:] - total).exp(), total[..., -1:].exp()
    if texts is not None:
        text = split(texts[:, None])  # (B, 1, N, C)
        first, last = text[:, :, :1, :1], text[..., -1:]
        before = torch.cat([first, last[:, :, :-1]], dim=2)  # (B, 1, N, 1), the text of the state before each chunk
        between = between * (text[..., :, None] == text[..., None, :])
        from_start, to_end, whole = from_start * (text == before), to_end * (text == last), whole * (last == before)
    return Decays(between, from_start[..., None], to_end[..., None], whole[..., None])
