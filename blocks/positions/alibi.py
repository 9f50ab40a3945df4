"""Attention with linear biases."""

import math

import torch

from blocks.base import AttentionPositions, Context, DistanceBias, Site
from registry import Capabilities, Positive, PositiveFloat, register

MOST_HEADS = 2**16


@register("alibi")
class ALiBi(AttentionPositions):
    """Subtract slope * distance from each score, with a fixed slope per head.

    For a power of two of n heads, slopes are 2^(-8/n), 2^(-16/n), ...; for other numbers, those of the next smaller
    power of two, followed by every other slope of the next larger one.

    Args:
        heads: number of heads, required where a stack shares it; null: the mixer's.
        factor: factor on the slopes.
    """

    paper = "Press et al., 2021, arXiv:2108.12409"
    formula = "s_(h,t,u) = scale * q_(h,t)^T k_(h,u) - slope_h |t - u|; slope_h = 2^(-8 h / H)"
    capabilities = Capabilities(needs=frozenset({"bias"}))

    def __init__(self, site: Site, *, heads: Positive | None = None, factor: PositiveFloat = 1.0) -> None:
        super().__init__(site)
        self.heads = count = heads_of(site, heads)
        self.slopes = [factor * slope for slope in alibi_slopes(count)]
        self.factor = factor

    def prepare(self, context: Context) -> None:
        self.bias(context)

    def bias(self, context: Context) -> DistanceBias:
        return context.once(("alibi", self.heads, self.factor), lambda: self._bias(context))

    def _bias(self, context: Context) -> DistanceBias:
        slopes = torch.tensor(self.slopes, device=context.positions.device)
        return DistanceBias((-slopes[:, None] * context.every_distance().abs())[None])


def alibi_slopes(heads: int) -> list[float]:
    """The slope of each head.

    Raises:
        ValueError: there are more heads than any mixer has, whose slopes would fill the memory.
    """
    if heads > MOST_HEADS:
        raise ValueError(f"heads={heads} is above {MOST_HEADS}, the most that alibi supports")
    lower = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / lower) for i in range(lower)]
    further = [2 ** (-8 * (i + 1) / (2 * lower)) for i in range(0, 2 * lower, 2)]
    return slopes + further[: heads - lower]


def heads_of(site: Site, heads: int | None) -> int:
    """The number of heads, from the surrounding mixer or as given.

    Raises:
        ValueError: neither is given, or they differ.
    """
    known = site.heads or heads
    if known is None:
        raise ValueError("positions that a stack shares need the number of heads; set heads")
    if heads is not None and heads != known:
        raise ValueError(f"heads={heads}, but the surrounding mixer has heads={known}; leave heads out")
    return known
