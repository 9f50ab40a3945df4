"""A weighted sum of the streams."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from blocks.base import Axis, Factory, Fixed, Intermediate, Norm, Readout, Site, described
from blocks.residual.streams import FIRST_SCALE, WEIGHTLESS, affine_parts, projected, side_by_side, weighted_sum
from registry import NonNegativeFloat, register


@register("weighted")
class WeightedReadout(Readout):
    """The sum of all streams with positive weights that depend on the token; about their mean at the start.

    Args:
        eps: added to each weight.
        streams_norm: norm of the vector of all streams, N times as wide as one, from which the weights are computed.
    """

    paper = "DeepSeek-AI, 2026 (DeepSeek-V4); weights: Xie et al., 2025, arXiv:2512.24880"
    formula = "y = sum_i a_i x_i; a = σ(s W norm(x) + c) + eps"
    intermediates = described(
        read=Intermediate(
            "How much each stream counts in the vector of a token after the last layer.",
            ("token", "stream"),
            "a = σ(s W streams_norm(x) + c) + {eps}",
            ("input",),
        ),
        output=Intermediate(
            "The sum of the streams of a token with their weights.",
            ("token", "width"),
            "y = sum_i a_i x_i",
            ("input", "read"),
        ),
    )

    def __init__(
        self,
        site: Site,
        streams: int,
        *,
        eps: NonNegativeFloat = 1e-6,
        streams_norm: Factory[Norm] = WEIGHTLESS,
    ) -> None:
        super().__init__(site)
        self.streams, self.dim, self.eps = streams, site.dim, eps
        self.streams_norm = streams_norm(site.resized(streams * site.dim))
        self.weight = nn.Parameter(torch.empty(streams, streams * site.dim))
        self.bias = nn.Parameter(torch.empty(streams))
        self.scale = nn.Parameter(torch.empty(1))

    def constants(self) -> Mapping[str, float]:
        return {"bias": -math.log(self.streams - 1), "scale": FIRST_SCALE}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"weight": (Fixed(self.streams), None), "bias": (Fixed(self.streams),), "scale": (Fixed(1),)}

    def forward(self, x: Tensor) -> Tensor:
        y = projected(self.streams_norm(side_by_side(x, self.dim)), self.weight)
        (read,) = affine_parts(y, self.scale, self.bias, (self.streams,))
        read = read.sigmoid() + self.eps
        self.record(read=read)
        return weighted_sum(x, read)

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 2 * self.weight.numel() + 2 * self.streams * self.dim
