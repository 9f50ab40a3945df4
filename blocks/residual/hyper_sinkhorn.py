"""Manifold-constrained hyper-connections."""

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
from registry import NonNegativeFloat, Positive, PositiveFloat, register

FIRST_DIAGONAL = 4.0
"""Initial logit with which a stream goes into itself; into others it is 0."""


@register("hyper_sinkhorn")
class SinkhornHyperConnection(WeightedStreamsResidual):
    """Several streams that are mixed by a doubly stochastic matrix, and read and written with positive weights.

    Rows and columns of the matrix sum to 1, so that mixing keeps the mean of the streams and makes none larger, however
    deep the stack is. At the start a sublayer reads about the mean of the streams, writes to each with a weight of
    about half of ``magnitude``, and mixes little.

    Args:
        streams: number N of residual streams.
        magnitude: largest weight with which an update is written.
        iterations: number of divisions by the sums of rows and of columns in turn (Sinkhorn & Knopp, 1967).
        eps: added to the weights that are read with, to the matrix before the divisions, and to each divisor.
        streams_norm: norm of the vector of all streams, N times as wide as one, from which the weights are computed.
        inner: the residual whose update is written, which places the norms around the sublayer.
    """

    paper = "Xie et al., 2025, mHC: Manifold-Constrained Hyper-Connections, arXiv:2512.24880"
    formula = (
        "y_i = sum_j A_(j i) x_j + b_i f(sum_j a_j x_j); a = σ(s_a W_a norm(x) + c_a) + eps; "
        'b = magnitude * σ(s_b W_b norm(x) + c_b); A = "sinkhorn"(exp(s_A W_A norm(x) + c_A))'
    )
    intermediates = recorded(
        "a = σ(s_a W_a streams_norm(x) + c_a) + {eps}",
        "b = {magnitude} * σ(s_b W_b streams_norm(x) + c_b)",
        'A = "sinkhorn"(exp(s_A W_A streams_norm(x) + c_A))',
    )

    def __init__(
        self,
        site: Site,
        *,
        streams: Streams = 4,
        magnitude: PositiveFloat = 2.0,
        iterations: Positive = 20,
        eps: NonNegativeFloat = 1e-6,
        streams_norm: Factory[Norm] = WEIGHTLESS,
        inner: Factory[Residual] = PreNorm,
    ) -> None:
        super().__init__(site, streams, inner)
        self.magnitude, self.iterations, self.eps = magnitude, iterations, eps
        self.streams_norm = streams_norm(site.resized(streams * site.dim))
        outputs = streams * (2 + streams)
        self.weight = nn.Parameter(torch.empty(outputs, streams * site.dim))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.scale = nn.Parameter(torch.empty(3))

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        places = range(self.streams)
        read = -math.log(self.streams - 1)  # a sigmoid of 1 / N
        mix = [FIRST_DIAGONAL * (i == j) for j in places for i in places]
        return {"bias": [*(read for _ in places), *(0.0 for _ in places), *mix], "scale": FIRST_SCALE}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        outputs = Fixed(self.streams * (2 + self.streams))
        return {"weight": (outputs, None), "bias": (outputs,), "scale": (Fixed(3),)}

    def weights(self, x: Tensor) -> StreamWeights:
        count = self.streams
        y = projected(self.streams_norm(side_by_side(x, self.dim)), self.weight)
        read, write, mix = affine_parts(y, self.scale, self.bias, (count, count, count * count))
        return StreamWeights(
            read.sigmoid() + self.eps,
            self.magnitude * write.sigmoid(),
            self._doubly_stochastic(mix.view(*mix.shape[:-1], count, count)),
        )

    def _doubly_stochastic(self, logits: Tensor) -> Tensor:
        """(..., N, N) logits to positive weights, whose rows and columns sum to about 1."""
        y = logits.softmax(-1) + self.eps  # rows sum to 1
        y = y / (y.sum(-2, keepdim=True) + self.eps)
        for _ in range(self.iterations - 1):
            y = y / (y.sum(-1, keepdim=True) + self.eps)
            y = y / (y.sum(-2, keepdim=True) + self.eps)
        return y

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 2 * self.weight.numel()
