"""The gated delta rule, in chunks."""

from typing import Any, cast

import torch
from torch import Tensor

from blocks.recurrent.chunks import decays, joined, layout, products_flops, split


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
        logs: (B, H, T), logarithm of the decay a; (B, H, T, K) if it differs between the key channels.
        documents: (B, T) int; the memory is reset where another document begins; None: one document.
        memory: (B, H, K, V) before the first token; None: zeros.

    Returns:
        y (B, H, T, V), and the memory after the last token.
    """
    length, chunks = q.shape[2], layout(q.shape[2], channels=logs.ndim == 4)
    left = decays(logs if logs.ndim == 4 else logs[..., None], chunks, documents)
    q, k, v, beta = (split(part, chunks) for part in (q, k, v, beta[..., None]))
    added, replaced = _solved(left.products(k * beta, k), v * beta, k * (beta * left.from_start))
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
    y = torch.stack(before, dim=2) + left.products(q, k) @ torch.stack(news, dim=2)
    return joined(y, length), held


def _solved(overlap: Tensor, values: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The values that a chunk adds to an empty memory, and the keys that read the memory before the chunk."""
    sides = torch.cat([values, keys], dim=-1)
    solved: Tensor = cast("Any", torch.linalg).solve_triangular(overlap, sides, upper=False, unitriangular=True)
    return solved[..., : values.shape[-1]], solved[..., values.shape[-1] :]


def delta_rule_flops(length: int, key_dim: int, value_dim: int, *, channels: bool = False) -> float:
    """FLOPs of the matrix products per token and head in a sequence of ``length``, without the triangular solves.

    Args:
        length: number of tokens.
        key_dim: K.
        value_dim: V.
        channels: each key channel has a decay of its own.
    """
    count, size = layout(length, channels=channels)
    rest = 2 * size * value_dim * (size + 3 * key_dim)
    products = products_flops(size, key_dim, channels=channels and key_dim > 1)
    return (2 * products + rest) * count / length
