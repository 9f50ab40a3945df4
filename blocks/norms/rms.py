"""Root-mean-square normalisation."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.base import Axis, Intermediate, Norm, Site, described
from blocks.norms.affine import affine, channel_axes
from registry import PositiveFloat, register


@register("rms")
class RMSNorm(Norm):
    """Scale each vector to unit root mean square: x / sqrt(mean(x^2) + eps) * (offset + weight) + bias.

    Args:
        eps: added to the mean square before the square root.
        weight: learn a scale per channel.
        bias: learn a shift per channel.
        offset: added to the learned scale; with 1, weights are near 0, so that weight decay pulls the scale towards 1.
    """

    paper = "Zhang & Sennrich, 2019, arXiv:1910.07467"
    formula = "y = x / sqrt(mean(x^2) + eps) ⊙ (offset + weight) + bias"
    symbol = "RMSNorm"
    intermediates = described(
        rms=Intermediate(
            "The root mean square over the channels of each vector.",
            ("...",),
            "r = sqrt(mean(x^2) + {eps})",
            ("input",),
        ),
        output=Intermediate(
            "Each vector is scaled to a root mean square of 1; then each channel has a learned scale.",
            ("...", "width"),
            "x / r{weight:* w}{bias:+ b}",
            ("input", "rms"),
        ),
    )

    def __init__(
        self, site: Site, *, eps: PositiveFloat = 1e-6, weight: bool = True, bias: bool = False, offset: float = 0.0
    ) -> None:
        super().__init__(site)
        self.eps, self.offset = eps, offset if weight else 0.0
        shape = (site.dim,) if site.heads is None else (site.heads, site.dim)
        self.weight = nn.Parameter(torch.full(shape, 1.0 - offset)) if weight else None
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None

    def constants(self) -> Mapping[str, float]:
        return {"weight": 1.0 - self.offset, "bias": 0.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"weight": channel_axes(self.weight, self.offset)}

    def forward(self, x: Tensor) -> Tensor:
        if self.recording:
            self.record(rms=(x.square().mean(dim=-1) + self.eps).sqrt())
        weight = self.weight + self.offset if self.weight is not None and self.offset else self.weight
        if self.bias is not None or (self.site is not None and self.site.heads is not None):
            return affine(F.rms_norm(x, x.shape[-1:], eps=self.eps), weight, self.bias)
        return F.rms_norm(x, x.shape[-1:], weight, self.eps)
