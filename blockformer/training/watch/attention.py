"""Attention weights, observed while a model runs."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from blocks.attention.eager import attention_weights
from blocks.attention.scoring import Attend, Scoring
from blocks.attention.visibility import Visibility
from blocks.base import Mixer

Observe = Callable[[Tensor, Tensor, Visibility, Scoring], None]
"""Takes queries (B, H, T, K), keys (B, G, S, K), what the queries see, and the options of the scores."""


def attending(model: nn.Module) -> dict[str, nn.Module]:
    """The softmax attentions of a model, by their paths: the modules that call a backend as their ``attend``."""
    return {path: part for path, part in model.named_modules() if getattr(part, "attend", None) is not None}


def mixers_without_weights(model: nn.Module) -> dict[str, Mixer]:
    """The mixers that have no attention weights, such as recurrent ones, by their paths."""
    mixers = {path: part for path, part in model.named_modules() if isinstance(part, Mixer)}
    return {path: mixer for path, mixer in mixers.items() if not attending(mixer)}


@contextmanager
def observed(attentions: Iterable[tuple[nn.Module, Observe]]) -> Generator[None]:
    """Let each of the modules of :func:`attending` show what its backend is given, in every run within the block."""
    before: list[tuple[Any, Attend]] = []
    for module, observe in attentions:
        attend: Attend = module.attend  # pyright: ignore[reportAssignmentType]
        before.append((module, attend))
        setattr(module, "attend", _observing(attend, observe))  # noqa: B010 (pyright: not declared)
    try:
        yield
    finally:
        for module, attend in before:
            module.attend = attend


def _observing(attend: Attend, observe: Observe) -> Attend:
    def backend(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
        with torch.no_grad():
            observe(q, k, visible, scoring)
        return attend(q, k, v, visible, scoring)

    return backend


def map_of(q: Tensor, k: Tensor, visible: Visibility, scoring: Scoring, most: int) -> Tensor:
    """The weights of the first ``most`` keys for each of the first ``most`` queries; NaN: the query cannot see the key.

    Returns:
        (B, H, at most ``most``, at most ``most``) float32; the softmax is over all keys.
    """
    first = min(most, q.shape[2])
    mask = visible.part(slice(None), (0, first), (0, k.shape[2]))
    if scoring.bias is not None:
        scoring = scoring._replace(bias=scoring.bias.rows(0, first, q.shape[2]))
    weights = attention_weights(q[:, :, :first].float(), k.float(), mask, scoring)
    if mask is not None:
        weights = weights.masked_fill(~mask, torch.nan)
    return weights[..., :most]
