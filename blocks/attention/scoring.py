"""Options of attention scores, and the signature of a backend.

Queries (B, H, T, K), keys (B, G, S, K) and values (B, G, S, K') with H a multiple of G -> (B, H, T, K'). The output is
0 for a query whose keys are all masked.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from blocks.attention.visibility import Visibility
from blocks.base import DistanceBias


class Scoring(NamedTuple):
    """Options of the scores: ``softmax(cap(q k^T * scale) + bias)``.

    Attributes:
        scale: factor on the scores.
        dropout: probability of dropping an attention weight.
        softcap: bound c on the scores, as c * tanh(score / c); None: disabled.
        bias: added to the scores; None: no bias.
        sinks: (H,), an extra score per head in the softmax, for no key; None: no sinks.
    """

    scale: float
    dropout: float = 0.0
    softcap: float | None = None
    bias: DistanceBias | None = None
    sinks: Tensor | None = None


Attend = Callable[[Tensor, Tensor, Tensor, Visibility, Scoring], Tensor]
"""Takes queries, keys, values, what the queries see, and the options of the scores."""


def in_autocast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values in autocast's type, where it is on: norms and rotations may have left it."""
    if q.is_meta or not torch.is_autocast_enabled(q.device.type):
        return q, k, v
    dtype = torch.get_autocast_dtype(q.device.type)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(B, G, S, K) -> (B, H, S, K): each key or value head repeated for the query heads that share it."""
    groups = heads // x.shape[1]
    return x.repeat_interleave(groups, dim=1) if groups > 1 else x
