"""The mean of projected streams."""

from collections.abc import Mapping

import torch
from torch import Tensor

from blocks.base import Axis, Intermediate, Readout, Site, described
from blocks.residual.stream_projections import StreamProjections
from registry import register


@register("projected")
class ProjectedReadout(Readout):
    """The mean of the first stream and a projection of each other, scaled to the root mean square of the first."""

    paper = "Google, 2025 (Gemma 3n); streams: Baykal et al., 2023, arXiv:2301.13310"
    formula = "y = 1 / N * (x_1 + sum_(i > 1) s_i W_i x_i); s_i = sqrt(mean(x_1^2) / mean((W_i x_i)^2))"
    intermediates = described(
        projected=Intermediate(
            "The first stream, and a projection of each other with the magnitude of the first.",
            ("token", "stream", "width"),
            "p_1 = x_1; p_i = s_i W_i x_i; s_i = sqrt(mean(x_1^2) / mean((W_i x_i)^2))",
            ("input",),
        ),
        output=Intermediate(
            "The mean of the projected streams of a token.",
            ("token", "width"),
            "y = 1 / N * sum_i p_i",
            ("projected",),
        ),
    )

    def __init__(self, site: Site, streams: int) -> None:
        super().__init__(site)
        self.projections = StreamProjections(site, streams)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return self.projections.axes("projections")

    def forward(self, x: Tensor) -> Tensor:
        y = self.projections(x)
        self.record(projected=y)
        return y.mean(dim=-2, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
