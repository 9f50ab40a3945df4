"""How large attention scores are, and how evenly they spread."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from blocks.attention.backends import Scoring
from blocks.attention.visibility import Visibility


class Seen(Protocol):
    """Where it is written down."""

    score: float | None
    entropy: float | None


def watched(attend: Callable[..., Tensor], seen: Seen) -> Callable[..., Tensor]:
    """A way to compute attention that looks at the scores first: the largest and the lowest entropy of all calls."""

    def wrapper(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
        with torch.no_grad():
            scores = q.float() @ k.float().repeat_interleave(q.shape[1] // k.shape[1], dim=1).transpose(-2, -1)
            scores = scores * scoring.scale
            if scoring.bias is not None:
                scores = scores + scoring.bias
            mask = visible.full(q)
            mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
            largest = scores[mask].abs().max().item()
            weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
            entropy = -(weights * weights.clamp(min=1e-30).log()).sum(-1)
            most = mask.sum(-1).float().log()
            share = (entropy.sum() / most.sum().clamp(min=1e-30)).item()
            seen.score = max(largest, seen.score or 0.0)
            seen.entropy = share if seen.entropy is None else min(share, seen.entropy)
        return attend(q, k, v, visible, scoring)

    return wrapper
