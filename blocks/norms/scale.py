"""Normalisation to a learned length, or to length 1."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from blocks.base import Axis, Fixed, Intermediate, Norm, Site, described
from registry import PositiveFloat, register


@register("scale")
class ScaleNorm(Norm):
    """g * x / max(|x|, eps) with one learned g, which starts at sqrt(D).

    At a site of m times the base width g is sqrt(m) times a parameter, so that training changes it in proportion.

    Args:
        eps: lower bound on the length in the division.
        weight: learn g; otherwise it is 1.
    """

    paper = "Nguyen & Salazar, 2019, arXiv:1910.05895"
    formula = "y = g x / max(|x|, eps)"
    symbol = "ScaleNorm"
    intermediates = described(length=Intermediate("The length of each vector.", ("...",), "|x|", ("input",)))

    def __init__(self, site: Site, *, eps: PositiveFloat = 1e-5, weight: bool = True) -> None:
        super().__init__(site)
        self.eps, self.factor = eps, site.width_multiplier**0.5 if weight else 1.0
        self.initial = (site.dim / site.width_multiplier) ** 0.5 if weight else 1.0
        shape = (1,) if site.heads is None else (site.heads, 1)
        self.weight = nn.Parameter(torch.full(shape, self.initial)) if weight else None

    def constants(self) -> Mapping[str, float]:
        return {"weight": self.initial}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {} if self.weight is None else {"weight": (*(None,) * (self.weight.ndim - 1), Fixed(1))}

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.weight is None else x * (self.weight if self.factor == 1 else self.weight * self.factor)
        length = x.square().sum(dim=-1, keepdim=True).clamp(min=self.eps**2).sqrt()
        self.record(length=length[..., 0])
        return y / length
