"""The gated delta rule, in chunks."""

from typing import Any, cast

import torch
from torch import Tensor

from blocks.recurrent.chunks import decays, joined, layout, split


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    logs: Tensor,
    documents: Tensor | None = None,
    memory: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Update a decaying memory so that a key's value replaces the old one, and read it with the query.

    M_t = a_t M_(t-1) + k_t (b_t (v_t - a_t M_(t-1)^T k_t))^T, and y_t = M_t^T q_t. Within a chunk, the
    values that tokens add, v minus the value stored already, solve a triangular system.

    Args:
        q: (B, H, T, K) queries.
        k: (B, H, T, K) keys, of length 1 or less.
        v: (B, H, T, V) values.
        beta: (B, H, T), b, the fraction of the old value that is replaced, 0 to 1; up to 2, which reverses it.
        logs: (B, H, T), logarithm of the decay a.
        documents: (B, T) int; the memory is reset where another document begins; None: one document.
        memory: (B, H, K, V) before the first token; None: zeros.

    Returns:
        y (B, H, T, V), and the memory after the last token.
    """
    length = q.shape[2]
    left = decays(logs, documents)
    q, k, v, beta = split(q), split(k), split(v), split(beta)[..., None]
    added, replaced = _solved(k, v, beta, left.between, left.from_start)
    reads = torch.cat([replaced, q * left.from_start], dim=-2)  # both are products with the memory before the chunk
    writes = (k * left.to_end).transpose(-2, -1)
    held = q.new_zeros(*q.shape[:2], k.shape[-1], v.shape[-1]) if memory is None else memory
    before: list[Tensor] = []
    news: list[Tensor] = []
    # unbind, because the gradient of an index is as large as all chunks together
    for read, write, add, whole in zip(*(part.unbind(2) for part in (reads, writes, added, left.whole)), strict=True):
        known, earlier = (read @ held).chunk(2, dim=-2)
        before.append(earlier)
        news.append(add - known)
        held = held * whole + write @ news[-1]
    scores = (q @ k.transpose(-2, -1)) * left.between
    y = torch.stack(before, dim=2) + scores @ torch.stack(news, dim=2)
    return joined(y, length), held


def _solved(k: Tensor, v: Tensor, beta: Tensor, between: Tensor, from_start: Tensor) -> tuple[Tensor, Tensor]:
    """The values that a chunk adds to an empty memory, and the keys that read the memory before the chunk."""
    overlap = ((k * beta) @ k.transpose(-2, -1)) * between
    sides = torch.cat([v * beta, k * (beta * from_start)], dim=-1)
    solved: Tensor = cast("Any", torch.linalg).solve_triangular(overlap, sides, upper=False, unitriangular=True)
    return solved[..., : v.shape[-1]], solved[..., v.shape[-1] :]


def delta_rule_flops(length: int, key_dim: int, value_dim: int) -> float:
    """FLOPs of the matrix products per token and head in a sequence of ``length``, without the triangular solves."""
    count, size = layout(length)
    return 2 * (2 * size * key_dim + size * value_dim + 3 * key_dim * value_dim) * count * size / length
