"""The mean of gated streams."""

from collections.abc import Mapping

from torch import Tensor

from blocks.base import Axis, Factory, Intermediate, Norm, Readout, Site, described
from blocks.norms.rms import RMSNorm
from blocks.residual.gated_mean import GatedMean
from registry import Positive, register


@register("gated")
class GatedReadout(Readout):
    """The mean of all streams after their norms, each channel of each with a gate that depends on the token.

    Args:
        rank: width of the product of two projections that computes the gates.
        norm: norm of each stream, with weights of its own.
    """

    paper = "Qwen Team, 2026 (Qwen4-Exp)"
    formula = "y = 1 / N * sum_i g_i ⊙ z_i; z_i = norm_i(x_i); g = σ(W_2 silu(W_1 z / N))"
    intermediates = described(
        gates=Intermediate(
            "How much each channel of each stream counts in the vector of a token after the last layer.",
            ("token", "stream", "width"),
            "g = σ(W_2 silu(W_1 z / N))",
            ("input",),
        ),
        output=Intermediate(
            "The mean of the gated streams of a token.",
            ("token", "width"),
            "y = 1 / N * sum_i g_i ⊙ z_i",
            ("input", "gates"),
        ),
    )

    def __init__(self, site: Site, streams: int, *, rank: Positive = 32, norm: Factory[Norm] = RMSNorm) -> None:
        super().__init__(site)
        self.reading = GatedMean(site, streams, rank, norm)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return self.reading.axes("reading")

    def forward(self, x: Tensor) -> Tensor:
        y, _, gates = self.reading(x)
        self.record(gates=gates)
        return y
