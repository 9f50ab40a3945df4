"""Short causal convolutions, one filter a channel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.recurrent.rows import Rows
from blocks.recurrent.state import RecurrentState


def short_convolution(x: Tensor, weight: Tensor, rows: Rows, state: RecurrentState | None = None) -> Tensor:
    """Each channel's weighted sum of its last values: y_t = sum_i weight_i x_(t - kernel + 1 + i), within one text.

    Args:
        x: (B, T, C), in the order of ``rows``.
        weight: (C, kernel), the last for the token itself.
        rows: which tokens belong together.
        state: where the values before these are kept; it is brought up to date.
    """
    length, before = x.shape[1], weight.shape[1] - 1
    earlier = None if state is None else state.recent
    if earlier is None:
        earlier = x.new_zeros(x.shape[0], before, x.shape[2])
    known = torch.cat([earlier, x], dim=1)  # (B, kernel - 1 + T, C)
    if state is not None:
        state.recent = _last(known, before, rows.lengths)
    y = x * weight[:, before]
    for lag in range(1, before + 1):
        lagged = known[:, before - lag : before - lag + length]
        if rows.texts is not None:
            same = rows.texts == F.pad(rows.texts, (lag, 0), value=-1)[:, :length]
            lagged = lagged * same[..., None]
        y = torch.addcmul(y, lagged, weight[:, before - lag])
    return y


def _last(known: Tensor, count: int, lengths: Tensor | None) -> Tensor:
    """The last ``count`` values that are not padding, of (B, count + T, C)."""
    if lengths is None:
        return known[:, known.shape[1] - count :]
    index = lengths[:, None] + torch.arange(count, device=known.device)
    return known.gather(1, index[..., None].expand(-1, -1, known.shape[2]))
