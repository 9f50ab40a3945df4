"""A norm by the largest channel."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from blocks.base import Norm, Site
from registry import PositiveFloat, register


@register("peak")
class PeakNorm(Norm):
    """x * weight / max_i |x_i|: the largest channel becomes 1.

    Args:
        eps: the least that is divided by.
    """

    formula = "y = x ⊙ weight / max_i |x_i|"

    def __init__(self, site: Site, *, eps: PositiveFloat = 1e-6) -> None:
        super().__init__(site)
        shape = (site.dim,) if site.heads is None else (site.heads, site.dim)  # of heads, each has its own
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(shape))

    def constants(self) -> Mapping[str, float]:
        return {"weight": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        peak = x.abs().amax(dim=-1, keepdim=True).clamp(min=self.eps)
        return x / peak * self.weight.expand_as(x)
