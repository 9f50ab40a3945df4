"""Linear biases for distance."""

import math

import torch
from torch import Tensor

from blocks.base import AttentionPositions, Context, Site
from registry import Capabilities, Positive, register


@register("alibi")
class ALiBi(AttentionPositions):
    """Subtract slope * distance from every score; each head has a slope of its own, and nothing is learned.

    With n heads, n a power of two, slopes are 2^(-8/n), 2^(-16/n), ...; else those of the next smaller power of two,
    and then every other one of the next larger.

    Args:
        heads: number of heads, where it is shared by the layers of a stack; inside a mixer it knows it.
    """

    paper = "Press et al., 2021, arXiv:2108.12409"
    capabilities = Capabilities(needs=frozenset({"bias"}))

    def __init__(self, site: Site, *, heads: Positive | None = None) -> None:
        super().__init__(site)
        self.heads = count = heads_of(site, heads)
        self.slopes = alibi_slopes(count)

    def prepare(self, context: Context) -> None:
        self.bias(context)

    def bias(self, context: Context) -> Tensor:
        return context.once(("alibi", self.heads), lambda: self._bias(context))

    def _bias(self, context: Context) -> Tensor:
        slopes = torch.tensor(self.slopes, device=context.positions.device)
        return (-slopes[:, None, None] * context.distances().abs())[None]


def alibi_slopes(heads: int) -> list[float]:
    """The slope of every head."""
    lower = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / lower) for i in range(lower)]
    further = [2 ** (-8 * (i + 1) / (2 * lower)) for i in range(0, 2 * lower, 2)]
    return slopes + further[: heads - lower]


def heads_of(site: Site, heads: int | None) -> int:
    """The number of heads, from the mixer around or as given.

    Raises:
        ValueError: neither says it, or they disagree.
    """
    known = site.heads or heads
    if known is None:
        raise ValueError("positions that a stack shares must say their number of heads: heads=...")
    if heads is not None and heads != known:
        raise ValueError(f"heads={heads}, but the mixer around has {known}")
    return known
