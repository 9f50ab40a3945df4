"""Layer normalisation."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.base import Axis, Intermediate, Norm, Site, described
from blocks.norms.affine import affine, channel_axes
from registry import PositiveFloat, register


@register("layer")
class LayerNorm(Norm):
    """Centre and scale each vector: (x - mean) / sqrt(var + eps) * (offset + weight) + bias.

    Args:
        eps: added to the variance before the square root.
        weight: learn a scale per channel.
        bias: learn a shift per channel.
        offset: added to the learned scale; with 1, weights are near 0, so that weight decay pulls the scale towards 1.
    """

    paper = "Ba et al., 2016, arXiv:1607.06450"
    formula = "y = (x - mean(x)) / sqrt(var(x) + eps) ⊙ (offset + weight) + bias"
    symbol = "LayerNorm"
    intermediates = described(
        mean=Intermediate("The mean over the channels of each vector.", ("...",), "mu = mean(x)", ("input",)),
        deviation=Intermediate(
            "The standard deviation over the channels of each vector.",
            ("...",),
            "sigma = sqrt(mean((x - mu)^2) + {eps})",
            ("input", "mean"),
        ),
        output=Intermediate(
            "Each vector is centred and scaled to mean 0 and deviation 1; then each channel has a learned scale and "
            "shift.",
            ("...", "width"),
            "(x - mu) / sigma{weight:* w}{bias:+ b}",
            ("input", "mean", "deviation"),
        ),
    )

    def __init__(
        self, site: Site, *, eps: PositiveFloat = 1e-5, weight: bool = True, bias: bool = True, offset: float = 0.0
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
            variance, mean = torch.var_mean(x, dim=-1, correction=0)
            self.record(mean=mean, deviation=(variance + self.eps).sqrt())
        weight = self.weight + self.offset if self.weight is not None and self.offset else self.weight
        if self.site is not None and self.site.heads is not None:
            return affine(F.layer_norm(x, x.shape[-1:], eps=self.eps), weight, self.bias)
        return F.layer_norm(x, x.shape[-1:], _as_wide(weight, x), _as_wide(self.bias, x), self.eps)


def _as_wide(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    """A parameter in no narrower dtype than x's, as the kernel requires; FSDP2 may have gathered it in 16 bits."""
    return None if parameter is None else parameter.to(torch.promote_types(parameter.dtype, x.dtype))
