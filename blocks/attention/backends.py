"""Ways to compute softmax attention; each gives what ``eager`` gives.

Queries (B, H, T, K), keys (B, G, S, K) and values (B, G, S, K') with H a multiple of G -> (B, H, T, K'). A query that
may look nowhere gets zeros.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.attention.visibility import Visibility

Backend = Literal["auto", "eager", "sdpa"]
Attend = Callable[[Tensor, Tensor, Tensor, Visibility, float, float], Tensor]


def eager(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float, dropout: float) -> Tensor:
    """softmax(q k^T * scale) v, step by step: the reference, and the one to read."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(-2, -1) * scale  # (B, H, T, S)
    mask = visible.mask
    if visible.causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)  # a query that sees nothing would otherwise see everything
    return F.dropout(weights, dropout) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float, dropout: float) -> Tensor:
    """PyTorch's fused kernels (flash, memory-efficient, cuDNN), which never hold the (T, S) scores."""
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, visible.mask, dropout, is_causal=visible.causal, scale=scale, enable_gqa=grouped
    )


BACKENDS: dict[str, Attend] = {"eager": eager, "sdpa": sdpa}


def choose(backend: Backend) -> str:
    """The name of the backend that ``auto`` stands for: sdpa can do all that is asked of it here."""
    return "sdpa" if backend == "auto" else backend
