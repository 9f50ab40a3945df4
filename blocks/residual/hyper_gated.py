"""Gated residual streams."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from blocks.base import Axis, Factory, Fixed, Intermediate, Linear, Norm, Residual, Site, Streams, described
from blocks.norms.none import NoNorm
from blocks.norms.rms import RMSNorm
from blocks.residual.gated_mean import GatedMean
from blocks.residual.pre import PreNorm
from blocks.residual.streams import StreamsResidual
from registry import Positive, register

UNNORMED = partial(PreNorm, norm=NoNorm)


@register("hyper_gated")
class GatedHyperConnection(StreamsResidual):
    """Several streams, of which a sublayer reads the mean, each channel of each with a gate.

    Streams are normalised before they are read, so that the sublayer needs no norm of its own, and change by what is
    written only.

    Args:
        streams: number N of residual streams.
        rank: width of the product of two projections that computes the gates.
        norm: norm of each stream, with weights of its own, before it is read.
        inner: the residual whose update is written, which places further norms around the sublayer.
    """

    paper = "Qwen Team, 2026 (Qwen4-Exp); streams: Zhu et al., 2024, arXiv:2409.19606"
    formula = (
        "y_i = x_i + b_i f(1 / N * sum_j g_j ⊙ z_j); z_j = norm_j(x_j); g = σ(W_2 silu(W_1 z / N)); b = 2 σ(W_b z / N)"
    )
    intermediates = described(
        gates=Intermediate(
            "How much each channel of each stream counts in what the sublayer reads.",
            ("token", "stream", "width"),
            "g = σ(W_2 silu(W_1 z / N))",
            ("input",),
        ),
        read=Intermediate(
            "What the sublayer reads: the mean of the gated streams.",
            ("token", "width"),
            "r = 1 / N * sum_j g_j ⊙ z_j",
            ("input", "gates"),
        ),
        write=Intermediate(
            "How much of the sublayer's update is added to each stream.",
            ("token", "stream"),
            "b = 2 σ(W_b z / N)",
            ("input",),
        ),
        update=Intermediate(
            "What the sublayer adds to the streams, a vector for each token.",
            ("token", "width"),
            "Delta = f(r)",
            ("read",),
        ),
        output=Intermediate(
            "The streams after the sublayer.",
            ("token", "stream", "width"),
            "y_i = x_i + b_i Delta",
            ("input", "write", "update"),
        ),
    )

    def __init__(
        self,
        site: Site,
        *,
        streams: Streams = 4,
        rank: Positive = 32,
        norm: Factory[Norm] = RMSNorm,
        inner: Factory[Residual] = UNNORMED,
    ) -> None:
        super().__init__(site, streams, inner)
        self.reading = GatedMean(site, streams, rank, norm)
        self.write = Linear(site, streams * site.dim, streams, bias=False)

    @property
    def identity_at_zero(self) -> bool:
        return True

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {**self.reading.axes("reading"), "write.weight": (Fixed(self.streams), None)}

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        read, z, gates = self.reading(x)
        write = 2 * torch.sigmoid(self.write(z.flatten(-2)) / self.streams)  # (B, T, N)
        update = self.inner.update(read, sublayer)  # (B, T, D)
        self.record(gates=gates, read=read, write=write, update=update)
        return (x + write[..., None] * update[..., None, :]).to(x.dtype)
