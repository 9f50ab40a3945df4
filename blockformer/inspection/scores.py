"""How large attention scores are, and how evenly the attention weights are spread."""

from typing import Protocol

import torch
from torch import Tensor

from blocks.attention.backends import Attend, Scoring, attention_scores, eager
from blocks.attention.visibility import Visibility


class Seen(Protocol):
    """Where the results are stored."""

    score: float | None
    entropy: float | None


def watched(attend: Attend, seen: Seen) -> Attend:
    """Wrap an attention backend to record, over all its calls, the largest score and the lowest mean entropy."""

    def wrapper(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
        with torch.no_grad():
            score, entropy = score_and_entropy(q.float(), k.float(), visible, scoring)
        seen.score = max(score, seen.score or 0.0)
        seen.entropy = entropy if seen.entropy is None else min(entropy, seen.entropy)
        return attend(q, k, v, visible, scoring)

    return wrapper


def score_and_entropy(q: Tensor, k: Tensor, visible: Visibility, scoring: Scoring) -> tuple[float, float]:
    """The largest score of a visible key, without bias, and the mean entropy of the weights over its largest value.

    The weights are those of the eager backend, so every option of the scores is in them. A sink counts as one more key.
    """
    scores = attention_scores(q, k, scoring._replace(bias=None)).abs()
    mask = visible.full(q)
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    every_key = torch.eye(k.shape[2], device=k.device).expand(*k.shape[:2], -1, -1)  # values: the result is the weights
    weights = eager(q, k, every_key, visible, scoring._replace(dropout=0.0))  # (B, H, T, S)
    choices = mask.sum(-1)
    if scoring.sinks is not None:
        weights = torch.cat([weights, 1 - weights.sum(-1, keepdim=True)], dim=-1)
        choices = choices + 1
    entropy = torch.special.entr(weights.clamp(min=0)).sum(-1)
    largest_entropy = choices.clamp(min=1).log()
    return scores[mask].max().item(), (entropy.sum() / largest_entropy.sum().clamp(min=1e-30)).item()
