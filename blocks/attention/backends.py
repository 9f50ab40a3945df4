"""Implementations of softmax attention, all equal to ``eager``."""

import logging
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from blocks.attention.blocked import blocked
from blocks.attention.eager import eager
from blocks.attention.flex import flex
from blocks.attention.fused import sdpa
from blocks.attention.scoring import Attend, Scoring, in_autocast
from blocks.attention.varlen import WIDEST, fits_varlen
from blocks.attention.visibility import Visibility

Backend = Literal["auto", "eager", "sdpa", "flex", "blocked"]
IMPLEMENTATIONS: dict[str, Attend] = {"eager": eager, "sdpa": sdpa, "flex": flex, "blocked": blocked}
BACKENDS = tuple(IMPLEMENTATIONS)
FEW_SCORES = 256 * 256
"""Up to this many scores in a head, all of them at once are faster than blocks."""
FEW_MASKED_SCORES = FEW_BIASED_SCORES = 2048 * 2048
"""Up to this many, masks and biases of all scores are faster on a GPU than FlexAttention that is not compiled in."""
TRITON = find_spec("triton") is not None  # which compiles FlexAttention's kernels

logger = logging.getLogger(__name__)


def choose(backend: Backend, *, softcap: bool, dropout: bool) -> Attend:
    """The implementation of a backend; auto: :func:`fastest`.

    Raises:
        ValueError: the backend does not support an option.
    """
    if backend == "auto":
        return fastest
    if backend == "sdpa" and softcap:
        raise ValueError("backend=sdpa does not support softcap; choose eager, flex or blocked")
    if backend == "flex" and dropout:
        raise ValueError("backend=flex does not support dropout; choose eager, sdpa or blocked")
    return IMPLEMENTATIONS[backend]


def fastest(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """The implementation that is fastest for the inputs; logged where it is the first of its kind.

    On a CPU, blocks where scores are many and one fused call would need a mask, a bias, or all scores. On a GPU,
    FlexAttention where scores are many and no fused kernel does without all of them, or more scores than fit. Elsewhere
    one fused call, or step by step with a softcap, which no fused kernel has.
    """
    q, k, v = in_autocast(q, k, v)
    name = (_on_a_cpu if q.is_cpu else _on_a_gpu)(q, v, visible, scoring)
    if not torch.compiler.is_compiling():
        _log_once(name, q.device.type, q.dtype)
    return IMPLEMENTATIONS[name](q, k, v, visible, scoring)


def _on_a_cpu(q: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Literal["blocked", "sdpa", "eager"]:
    plain = visible.everything or visible.plainly_causal
    added = scoring.bias is not None or scoring.sinks is not None
    fused = plain and not added and scoring.softcap is None and not scoring.dropout
    if not fused and visible.queries * visible.keys > FEW_SCORES:
        return "blocked"
    return "sdpa" if scoring.softcap is None else "eager"


def _on_a_gpu(q: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Literal["flex", "sdpa", "eager"]:
    """As measured by ``benchmarks.gpu``; a bias makes FlexAttention slow, so that only its memory counts there."""
    scores = visible.queries * visible.keys
    possible = TRITON and not scoring.dropout and max(q.shape[-1], v.shape[-1]) <= WIDEST and q.dtype != torch.float64
    if scoring.bias is not None:
        gains = scores > FEW_BIASED_SCORES
    elif scoring.softcap is not None or scoring.sinks is not None:
        gains = scores > FEW_SCORES
    else:
        least = FEW_SCORES if torch.compiler.is_compiling() else FEW_MASKED_SCORES
        gains = scores > least and visible.needs_all_scores and not fits_varlen(q, v, visible, scoring)
    if possible and gains:
        return "flex"
    return "sdpa" if scoring.softcap is None else "eager"


@cache
def _log_once(name: str, device: str, dtype: torch.dtype) -> None:
    logger.info("attention in %s on %s: backend auto takes %s", dtype, device, name)
