"""Normalisation to a learned length."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from blocks.base import Axis, Fixed, Norm, Site
from registry import PositiveFloat, register


@register("scale")
class ScaleNorm(Norm):
    """g * x / max(|x|, eps) with one learned g, which starts at sqrt(D).

    At a site of m times the base width g is sqrt(m) times a parameter, so that training changes it in proportion.

    Args:
        eps: lower bound on the length in the division.
    """

    paper = "Nguyen & Salazar, 2019, arXiv:1910.05895"

    def __init__(self, site: Site, *, eps: PositiveFloat = 1e-5) -> None:
        super().__init__(site)
        self.eps, self.factor = eps, site.width_multiplier**0.5
        self.initial = (site.dim / site.width_multiplier) ** 0.5
        self.weight = nn.Parameter(torch.full((1,) if site.heads is None else (site.heads, 1), self.initial))

    def constants(self) -> Mapping[str, float]:
        return {"weight": self.initial}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"weight": (*(None,) * (self.weight.ndim - 1), Fixed(1))}

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.factor == 1 else self.weight * self.factor
        return x * weight / x.square().sum(dim=-1, keepdim=True).clamp(min=self.eps**2).sqrt()
