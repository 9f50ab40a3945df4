"""Reshape the next token's distribution before one is drawn: pure functions from logits to logits."""

import torch
from torch import Tensor

NEVER = float("-inf")


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide logits: a temperature below 1 makes the likely likelier, one above 1 makes all more alike.

    Args:
        logits: (..., V).
        temperature: above 0.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0; its limit at 0 is greedy decoding")
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Leave the ``k`` most probable tokens (Fan et al., 2018, arXiv:1805.04833), all of them if there are fewer.

    Args:
        logits: (..., V); the others become -inf. Of equally probable ones exactly as many stay as there is room for.
        k: at least 1.

    Raises:
        ValueError: nothing would be left.
    """
    if k < 1:
        raise ValueError(f"top_k={k} leaves no token to choose; it must be at least 1")
    values, places = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return torch.full_like(logits, NEVER).scatter(-1, places, values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Leave the nucleus: the fewest tokens whose probabilities sum to at least ``p``.

    Holtzman et al., 2019, arXiv:1904.09751.

    Args:
        logits: (..., V); the others become -inf.
        p: above 0 and at most 1.

    Raises:
        ValueError: ``p`` is no such share.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p={p} must be above 0 and at most 1")
    ordered, places = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    more_probable = probabilities.cumsum(dim=-1) - probabilities  # mass of those that come before a token
    nucleus = more_probable < p
    nucleus[..., 0] = True  # rounding must not lose the first
    return torch.full_like(logits, NEVER).scatter(-1, places, ordered.masked_fill(~nucleus, NEVER))
