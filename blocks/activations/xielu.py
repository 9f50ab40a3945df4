"""xIELU, an activation with trained slopes."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from blocks.activations.pointwise import softplus
from blocks.base import Activation, Axis, Fixed
from registry import PositiveFloat, register

NEAREST = -1e-6  # exp(x) - 1 of what is nearer to 0 has no digits left in 16 bits


@register("xielu")
class XIELU(Activation):
    """a x^2 + beta x for x > 0, and b (exp(x) - 1 - x) + beta x elsewhere, with two trained numbers a and b.

    a = softplus(above) and b = beta + softplus(below), one of each for all channels, and for all experts.

    Args:
        beta: slope at 0.
        initial: initial value of a and of b, above ``beta``.
    """

    paper = "Huang & Schlag, 2024, arXiv:2411.13010"
    formula = 'y = a x^2 + beta x "for x > 0"; y = b (exp(x) - 1 - x) + beta x "else"'

    def __init__(self, *, beta: PositiveFloat = 0.5, initial: PositiveFloat = 0.8) -> None:
        super().__init__()
        if initial <= beta:
            raise ValueError(f"initial={initial} is not above beta={beta}, the lower bound of b; change one of them")
        self.beta, self.initial = beta, initial
        self.above = nn.Parameter(torch.zeros(1))
        self.below = nn.Parameter(torch.zeros(1))

    def constants(self) -> Mapping[str, float]:
        """The inverse of softplus."""
        return {"above": math.log(math.expm1(self.initial)), "below": math.log(math.expm1(self.initial - self.beta))}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"above": (Fixed(1),), "below": (Fixed(1),)}

    def forward(self, x: Tensor) -> Tensor:
        a, b = softplus(self.above), self.beta + softplus(self.below)
        bent = torch.where(x > 0, a * x.square(), b * (torch.expm1(x.clamp(max=NEAREST)) - x))
        return bent + self.beta * x
