"""A tanh in place of a norm."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from blocks.base import Axis, Fixed, Norm, Site
from blocks.norms.affine import affine
from registry import PositiveFloat, register


@register("dynamic_tanh")
class DynamicTanh(Norm):
    """tanh(alpha * x) * weight + bias with one learned alpha: a replacement for a norm that computes no statistics.

    Args:
        alpha: initial value of alpha.
        bias: learn a shift per channel.
    """

    paper = "Zhu et al., 2025, arXiv:2503.10622"
    formula = "y = tanh(alpha x) ⊙ weight + bias"

    def __init__(self, site: Site, *, alpha: PositiveFloat = 0.5, bias: bool = True) -> None:
        super().__init__(site)
        shape = (site.dim,) if site.heads is None else (site.heads, site.dim)
        self.initial = alpha
        self.alpha = nn.Parameter(torch.full((1,), alpha))
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None

    def constants(self) -> Mapping[str, float]:
        return {"alpha": self.initial, "weight": 1.0, "bias": 0.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"alpha": (Fixed(1),)}

    def forward(self, x: Tensor) -> Tensor:
        return affine(torch.tanh(self.alpha * x), self.weight, self.bias)
