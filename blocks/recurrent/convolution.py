"""Short causal depthwise convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.recurrent.base import RecurrentState, Rows


def short_convolution(
    x: Tensor, weight: Tensor, rows: Rows, state: RecurrentState | None = None, *, dilation: int = 1
) -> Tensor:
    """y_t = sum_i weight_i x_(t - (kernel - 1 - i) * dilation), per channel and within documents.

    Args:
        x: (B, T, C), in the order of ``rows``.
        weight: (C, kernel), the last column for the token itself.
        rows: the arrangement of padding and documents.
        state: cached state, updated in place; None: no cache.
        dilation: number of tokens from one that is read to the next.
    """
    length, last, before = x.shape[1], weight.shape[1] - 1, (weight.shape[1] - 1) * dilation
    earlier = None if state is None else state.recent
    if earlier is None:
        earlier = x.new_zeros(x.shape[0], before, x.shape[2])
    known = torch.cat([earlier, x], dim=1)  # (B, before + T, C)
    if state is not None:
        state.recent = last_values(known, before, rows.lengths)
    y = x * weight[:, last]
    for step in range(1, last + 1):
        lag = step * dilation
        lagged = known[:, before - lag : before - lag + length]
        if rows.documents is not None:
            same = rows.documents == F.pad(rows.documents, (lag, 0), value=-1)[:, :length]
            lagged = lagged * same[..., None]
        y = torch.addcmul(y, lagged, weight[:, last - step])
    return y


def last_values(known: Tensor, count: int, lengths: Tensor | None) -> Tensor:
    """The last ``count`` values (B, count, C) that are not padding, from (B, count + T, C)."""
    if lengths is None:
        return known[:, known.shape[1] - count :]
    index = lengths[:, None] + torch.arange(count, device=known.device)
    return known.gather(1, index[..., None].expand(-1, -1, known.shape[2]))
