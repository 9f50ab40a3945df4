"""The state-space recurrence with one decay per head, in chunks."""

import torch
from torch import Tensor

from blocks.recurrent.chunks import decays, joined, layout, split


def state_space_dual(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    logs: Tensor,
    documents: Tensor | None = None,
    memory: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute M_t = a_t M_(t-1) + k_t v_t^T and y_t = M_t^T q_t, where G groups of heads share queries and keys.

    Args:
        q: (B, G, T, K) queries.
        k: (B, G, T, K) keys.
        v: (B, H, T, V) values.
        logs: (B, H, T), logarithm of the decay a, 0 or less.
        documents: (B, T) int; the memory is reset where another document begins; None: one document.
        memory: (B, H, K, V) before the first token; None: zeros.

    Returns:
        y (B, H, T, V), and the memory after the last token.
    """
    length, groups, heads = q.shape[2], q.shape[1], v.shape[1]
    chunks = layout(length)
    left = decays(logs[..., None], chunks, documents)
    q, k, v = split(q, chunks), split(k, chunks), split(v, chunks)
    writes = _by_head(k.transpose(-2, -1) @ _by_group(v * left.to_end, groups), heads)  # (B, H, N, K, V)
    held = torch.zeros_like(writes[:, :, 0]) if memory is None else memory
    before: list[Tensor] = []
    for write, whole in zip(writes.unbind(2), left.whole.unbind(2), strict=True):
        before.append(held)
        held = held * whole + write
    earlier = _by_head(q @ _by_group(torch.stack(before, dim=2), groups), heads)
    scores = (q @ k.transpose(-2, -1)).repeat_interleave(heads // groups, dim=1) * left.between()  # (B, H, N, C, C)
    return joined(earlier * left.from_start + scores @ v, length), held


def _by_group(x: Tensor, groups: int) -> Tensor:
    """(B, H, N, C, V) -> (B, G, N, C, H / G * V), so that one product serves all heads of a group."""
    batch, heads, count, size, width = x.shape
    y = x.view(batch, groups, heads // groups, count, size, width)
    return y.permute(0, 1, 3, 4, 2, 5).reshape(batch, groups, count, size, heads // groups * width)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """The inverse of :func:`_by_group`."""
    batch, groups, count, size, width = x.shape
    y = x.view(batch, groups, count, size, heads // groups, width * groups // heads)
    return y.permute(0, 1, 4, 2, 3, 5).reshape(batch, heads, count, size, width * groups // heads)


def state_space_dual_flops(length: int, heads: int, groups: int, key_dim: int, value_dim: int) -> float:
    """FLOPs of the matrix products per token in a sequence of ``length``."""
    count, size = layout(length)
    per_group, per_head = size * key_dim, size * value_dim + 2 * key_dim * value_dim
    return 2 * (groups * per_group + heads * per_head) * count * size / length
