"""Softmax attention step by step: the reference, which stores all scores."""

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.attention.scoring import Scoring, repeat_heads
from blocks.attention.visibility import Visibility


def eager(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """softmax(scores) v, step by step: the reference."""
    weights = attention_weights(q, k, visible.mask(), scoring)
    return F.dropout(weights, scoring.dropout) @ repeat_heads(v, q.shape[1])


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None, scoring: Scoring) -> Tensor:
    """(B, H, T, S): the weight of each key, before dropout; the rest to a sum of 1 is on the sink.

    Args:
        q: queries (B, H, T, K).
        k: keys (B, G, S, K).
        mask: (B or 1, 1, T or 1, S) bool, True where a query attends to a key; None: everywhere.
        scoring: the options of the scores.
    """
    return masked_softmax(attention_scores(q, k, scoring), mask, scoring.sinks)


def masked_softmax(scores: Tensor, mask: Tensor | None, sinks: Tensor | None = None) -> Tensor:
    """(B, H, T, S) scores -> weights, in float32 at least, and rounded; all 0 for a query with no visible key.

    Args:
        scores: (B, H, T, S).
        mask: (B or 1, 1, T or 1, S) bool, True where a query attends to a key; None: everywhere.
        sinks: (H,), the score of a further key without a value; None: none.
    """
    keys = scores.shape[-1]
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:
        column = sinks.view(1, -1, 1, 1).to(scores.dtype).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=-1)  # (B, H, T, S + 1)
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))[..., :keys].to(
        scores.dtype
    )
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)  # a query with no visible key would otherwise attend to all keys
    return weights


def attention_scores(q: Tensor, k: Tensor, scoring: Scoring) -> Tensor:
    """(B, H, T, S): cap(q k^T * scale) + bias, before mask and sinks."""
    scores = q @ repeat_heads(k, q.shape[1]).transpose(-2, -1) * scoring.scale
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    return scores if scoring.bias is None else scores + scoring.bias.scores(k.shape[2]).to(scores.dtype)
