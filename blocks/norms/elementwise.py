"""The scale and shift of a norm alone."""

import torch
from torch import Tensor, nn

from blocks.base import Norm, Site
from blocks.norms.affine import affine
from registry import register


@register("affine")
class Affine(Norm):
    """weight * x + bias for each channel: a norm without the normalisation, which needs no statistics.

    Args:
        bias: learn a shift per channel.
    """

    paper = "Sun et al., 2020, arXiv:2004.02984, section 3.3 (NoNorm); Touvron et al., 2021, arXiv:2105.03404"
    formula = "y = weight ⊙ x + bias"

    def __init__(self, site: Site, *, bias: bool = True) -> None:
        super().__init__(site)
        shape = (site.dim,) if site.heads is None else (site.heads, site.dim)
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None

    def constants(self) -> dict[str, float]:
        return {"weight": 1.0, "bias": 0.0}

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.weight, self.bias)
