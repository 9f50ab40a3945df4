"""Implementations of softmax attention, all equal to ``eager``."""

from typing import Literal

from blocks.attention.eager import eager
from blocks.attention.flex import flex
from blocks.attention.fused import sdpa
from blocks.attention.scoring import Attend

Backend = Literal["auto", "eager", "sdpa", "flex"]
IMPLEMENTATIONS: dict[str, Attend] = {"eager": eager, "sdpa": sdpa, "flex": flex}
BACKENDS = tuple(IMPLEMENTATIONS)


def choose(backend: Backend, *, softcap: bool, dropout: bool) -> Attend:
    """The implementation of a backend; auto: the fastest one that supports the options.

    Raises:
        ValueError: the backend does not support an option.
    """
    if backend == "auto":
        return eager if softcap else sdpa
    if backend == "sdpa" and softcap:
        raise ValueError("backend=sdpa does not support softcap; choose eager or flex")
    if backend == "flex" and dropout:
        raise ValueError("backend=flex does not support dropout; choose eager or sdpa")
    return IMPLEMENTATIONS[backend]
