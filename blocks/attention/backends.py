"""Implementations of softmax attention, all equal to ``eager``."""

from typing import Literal

from torch import Tensor

from blocks.attention.blocked import blocked
from blocks.attention.eager import eager
from blocks.attention.flex import flex
from blocks.attention.fused import sdpa
from blocks.attention.scoring import Attend, Scoring
from blocks.attention.visibility import Visibility

Backend = Literal["auto", "eager", "sdpa", "flex", "blocked"]
IMPLEMENTATIONS: dict[str, Attend] = {"eager": eager, "sdpa": sdpa, "flex": flex, "blocked": blocked}
BACKENDS = tuple(IMPLEMENTATIONS)
FEW_SCORES = 256 * 256
"""Up to this many scores in a head, all of them at once are faster than blocks."""


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
    """The implementation that is fastest for the inputs.

    On a CPU, blocks where scores are many and one fused call would need a mask, a bias, or all scores; elsewhere one
    fused call, or step by step with a softcap, which no fused kernel has.
    """
    plain = visible.everything or visible.plainly_causal
    added = scoring.bias is not None or scoring.sinks is not None
    fused = plain and not added and scoring.softcap is None and not scoring.dropout
    if q.is_cpu and not fused and visible.queries * visible.keys > FEW_SCORES:
        return blocked(q, k, v, visible, scoring)
    return (sdpa if scoring.softcap is None else eager)(q, k, v, visible, scoring)
