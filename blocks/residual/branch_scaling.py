"""Residuals that scale the sublayer's output and leave the wiring to an inner residual."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from blocks.base import Axis, Factory, Residual, Site
from blocks.residual.pre import PreNorm
from registry import Probability, register


@register("scaled")
class Scaled(Residual):
    """The sublayer's output times a constant.

    Args:
        by: the constant.
        inner: residual that wires the scaled sublayer.
    """

    paper = "IBM Granite Team, 2024 (residual multiplier); Yang et al., 2022, arXiv:2203.03466"
    formula = "y = inner(x, by * f)"

    def __init__(self, site: Site, *, by: float = 1.0, inner: Factory[Residual] = PreNorm) -> None:
        super().__init__(site)
        self.by, self.inner = by, inner(site)
        self.streams = self.inner.streams

    @property
    def identity_at_zero(self) -> bool:
        return self.inner.identity_at_zero

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return self.inner(x, lambda y: sublayer(y) * self.by)


@register("layerscale")
class LayerScale(Residual):
    """The sublayer's output times a learned gain per channel, which starts small.

    Args:
        initial: initial value of the gains; at 0 every layer starts as the identity.
        inner: residual that wires the scaled sublayer.
    """

    paper = "Touvron et al., 2021, arXiv:2103.17239; from 0: Bachlechner et al., 2020, arXiv:2003.04887"
    formula = "y = inner(x, gain ⊙ f)"

    def __init__(self, site: Site, *, initial: float = 1e-4, inner: Factory[Residual] = PreNorm) -> None:
        super().__init__(site)
        self.initial, self.inner = initial, inner(site)
        self.streams = self.inner.streams
        self.gain = nn.Parameter(torch.full((site.dim,), initial))

    def constants(self) -> Mapping[str, float]:
        return {"gain": self.initial}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"gain": (None,)}

    @property
    def identity_at_zero(self) -> bool:
        return self.inner.identity_at_zero

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        # unflatten checks the width: plain broadcasting would repeat an output of one channel
        return self.inner(x, lambda y: cast("Tensor", sublayer(y).unflatten(-1, self.gain.shape)) * self.gain)


@register("stochastic_depth")
class StochasticDepth(Residual):
    """Skip the sublayer for randomly chosen rows of the batch during training, more often in later layers.

    Layer l of L is skipped with probability rate * (l + 1) / L; outputs that are kept are scaled up to the same mean.

    Args:
        rate: probability that a row skips a sublayer of the last layer.
        inner: residual that wires the scaled sublayer.
    """

    paper = "Huang et al., 2016, arXiv:1603.09382"
    formula = "y = inner(x, b / (1 - p) * f), b ~ Bernoulli(1 - p); p = rate * (l + 1) / L"

    def __init__(self, site: Site, *, rate: Probability = 0.1, inner: Factory[Residual] = PreNorm) -> None:
        super().__init__(site)
        self.inner = inner(site)
        self.streams = self.inner.streams
        self.keep = 1.0 - rate * (site.layer + 1) / site.depth

    @property
    def identity_at_zero(self) -> bool:
        return self.inner.identity_at_zero

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.training or self.keep == 1.0:
            return self.inner(x, sublayer)
        kept = torch.rand(x.shape[0], 1, 1, device=x.device, dtype=torch.float32) < self.keep
        return self.inner(x, lambda y: sublayer(y) * (kept / self.keep).to(y.dtype))
