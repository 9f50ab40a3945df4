"""The additive update of linear attention, in chunks."""

import torch
from torch import Tensor

from blocks.recurrent.chunks import decays, joined, layout, split


def additive_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Tensor | None = None,
    memory: Tensor | None = None,
    *,
    itself: bool = True,
) -> tuple[Tensor, Tensor]:
    """Compute M_t = M_(t-1) + k_t v_t^T and y_t = M_t^T q_t.

    Args:
        q: (B, H, T, K) queries.
        k: (B, H, T, K) keys.
        v: (B, H, T, V) values.
        documents: (B, T) int; the memory is reset where another document begins; None: one document.
        memory: (B, H, K, V) before the first token; None: zeros.
        itself: y_t includes the token's own k_t v_t^T.

    Returns:
        y (B, H, T, V), and the memory after the last token.
    """
    length = q.shape[2]
    left = decays(q.new_zeros(1, 1, length), documents)
    q, k, v = split(q), split(k), split(v)
    writes = (k * left.to_end).transpose(-2, -1) @ v  # (B, H, N, K, V)
    if memory is None:
        memory = torch.zeros_like(writes[:, :, 0])
    before: list[Tensor] = []
    for write, whole in zip(writes.unbind(2), left.whole.unbind(2), strict=True):
        before.append(memory)
        memory = memory * whole + write
    scores = (q @ k.transpose(-2, -1)) * (left.between if itself else left.between.tril(-1))
    y = (q * left.from_start) @ torch.stack(before, dim=2) + scores @ v
    return joined(y, length), memory


def additive_rule_flops(length: int, key_dim: int, value_dim: int) -> float:
    """FLOPs of the matrix products per token and head in a sequence of ``length``."""
    count, size = layout(length)
    return 2 * (size * (key_dim + value_dim) + 2 * key_dim * value_dim) * count * size / length
