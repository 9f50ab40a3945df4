"""Fixed sinusoidal positions."""

import math
from typing import Literal

import torch
from torch import Tensor

from blocks.base import Context, InputPositions, Site
from registry import PositiveFloat, register


@register("sinusoidal")
class SinusoidalPositions(InputPositions):
    """PE(pos, 2i) = sin(pos / theta^(2i/D)), PE(pos, 2i+1) = cos of the same; nothing is learned and any length works.

    Args:
        theta: longest wavelength, in tokens, over 2 pi.
        layout: ``interleaved`` puts sine and cosine in turn (the paper), ``halves`` all sines before all cosines.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762, section 3.5"

    def __init__(
        self, site: Site, *, theta: PositiveFloat = 10000.0, layout: Literal["interleaved", "halves"] = "interleaved"
    ) -> None:
        super().__init__(site)
        if site.dim % 2:
            raise ValueError(f"sinusoidal positions pair channels, but dim={site.dim} is odd")
        self.dim, self.theta, self.layout = site.dim, theta, layout

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return x + self.encode(context.positions).to(x.dtype)

    def encode(self, positions: Tensor) -> Tensor:
        """(B, T) positions -> (B, T, D) float32"""
        channels = torch.arange(0, self.dim, 2, device=positions.device, dtype=torch.float32)
        angles = positions[..., None] * torch.exp(channels * (-math.log(self.theta) / self.dim))
        pair = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (B, T, D/2, 2)
        return pair.flatten(-2) if self.layout == "interleaved" else pair.transpose(-1, -2).flatten(-2)
