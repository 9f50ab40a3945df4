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
FEW_SCORES = 512 * 512
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

    One fused call where it needs no mask, or where scores are few; for many on a CPU, blocks. A softcap, which no fused
    kernel has, keeps all scores only where they are few.
    """
    plain = (visible.everything or visible.plainly_causal) and scoring.bias is None and scoring.sinks is None
    many = visible.queries * visible.keys > FEW_SCORES
    if scoring.softcap is not None:
        attend = blocked if many else eager
    elif many and q.is_cpu and (scoring.dropout > 0 or not plain):
        attend = blocked
    else:
        attend = sdpa
    return attend(q, k, v, visible, scoring)
