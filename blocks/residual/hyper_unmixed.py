"""Hyper-connections without mixing."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from blocks.base import Axis, Factory, Fixed, Norm, Residual, Site, Streams
from blocks.residual.pre import PreNorm
from blocks.residual.streams import (
    FIRST_SCALE,
    WEIGHTLESS,
    StreamWeights,
    WeightedStreamsResidual,
    affine_parts,
    projected,
    recorded,
    side_by_side,
)
from registry import NonNegativeFloat, PositiveFloat, register


@register("hyper_unmixed")
class UnmixedHyperConnection(WeightedStreamsResidual):
    """Several streams that are read and written with positive weights, and change by what is written only.

    At the start a sublayer reads about the mean of the streams and writes to each with a weight of about half of
    ``magnitude``.

    Args:
        streams: number N of residual streams.
        magnitude: largest weight with which an update is written.
        eps: added to each weight.
        streams_norm: norm of the vector of all streams, N times as wide as one, from which the weights are computed.
        inner: the residual whose update is written, which places the norms around the sublayer.
    """

    paper = "without mixing: Tencent Hunyuan Team, 2026 (Hy4); weights: Xie et al., 2025, arXiv:2512.24880"
    formula = (
        "y_i = x_i + b_i f(sum_j a_j x_j); a = σ(s_a W_a norm(x) + c_a) + eps; "
        "b = magnitude * σ(s_b W_b norm(x) + c_b) + eps"
    )
    intermediates = recorded(
        "a = σ(s_a W_a streams_norm(x) + c_a) + {eps}", "b = {magnitude} * σ(s_b W_b streams_norm(x) + c_b) + {eps}"
    )
    mixes = False

    def __init__(
        self,
        site: Site,
        *,
        streams: Streams = 4,
        magnitude: PositiveFloat = 2.0,
        eps: NonNegativeFloat = 1e-6,
        streams_norm: Factory[Norm] = WEIGHTLESS,
        inner: Factory[Residual] = PreNorm,
    ) -> None:
        super().__init__(site, streams, inner)
        self.magnitude, self.eps = magnitude, eps
        self.streams_norm = streams_norm(site.resized(streams * site.dim))
        self.weight = nn.Parameter(torch.empty(2 * streams, streams * site.dim))
        self.bias = nn.Parameter(torch.empty(2 * streams))
        self.scale = nn.Parameter(torch.empty(2))

    @property
    def identity_at_zero(self) -> bool:
        return True

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        read = -math.log(self.streams - 1)  # a sigmoid of 1 / N
        return {"bias": [*[read] * self.streams, *[0.0] * self.streams], "scale": FIRST_SCALE}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        outputs = Fixed(2 * self.streams)
        return {"weight": (outputs, None), "bias": (outputs,), "scale": (Fixed(2),)}

    def weights(self, x: Tensor) -> StreamWeights:
        y = projected(self.streams_norm(side_by_side(x, self.dim)), self.weight)
        read, write = affine_parts(y, self.scale, self.bias, (self.streams, self.streams))
        return StreamWeights(read.sigmoid() + self.eps, self.magnitude * write.sigmoid() + self.eps)

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 2 * self.weight.numel()
