"""The additive update of linear attention, in chunks."""

import torch
from torch import Tensor

from blocks.recurrent.chunks import decays, joined, layout, products_flops, split


def additive_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Tensor | None = None,
    memory: Tensor | None = None,
    *,
    logs: Tensor | None = None,
    itself: bool = True,
) -> tuple[Tensor, Tensor]:
    """Compute M_t = a_t M_(t-1) + k_t v_t^T and y_t = M_t^T q_t.

    Args:
        q: (B, H, T, K) queries.
        k: (B, H, T, K) keys.
        v: (B, H, T, V) values.
        documents: (B, T) int; the memory is reset where another document begins; None: one document.
        memory: (B, H, K, V) before the first token; None: zeros.
        logs: (B or 1, H, T), logarithm of the decay a; None: nothing decays.
        itself: y_t includes the token's own k_t v_t^T.

    Returns:
        y (B, H, T, V), and the memory after the last token.
    """
    length, chunks = q.shape[2], layout(q.shape[2])
    left = decays((q.new_zeros(1, 1, length) if logs is None else logs)[..., None], chunks, documents)
    q, k, v = split(q, chunks), split(k, chunks), split(v, chunks)
    writes = (k * left.to_end).transpose(-2, -1) @ v  # (B, H, N, K, V)
    if memory is None:
        memory = torch.zeros_like(writes[:, :, 0])
    before: list[Tensor] = []
    for write, whole in zip(writes.unbind(2), left.whole.unbind(2), strict=True):
        before.append(memory)
        memory = memory * whole + write
    scores = left.products(q, k) if itself else left.products(q, k).tril(-1)
    y = (q * left.from_start) @ torch.stack(before, dim=2) + scores @ v
    return joined(y, length), memory


def additive_rule_flops(length: int, key_dim: int, value_dim: int) -> float:
    """FLOPs of the matrix products per token and head in a sequence of ``length``."""
    count, size = layout(length)
    rest = 2 * size * value_dim * (size + 2 * key_dim)
    return (products_flops(size, key_dim) + rest) * count / length
