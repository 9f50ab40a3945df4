"""Fixed sinusoidal position encodings."""

import math
from typing import Literal

import torch
from torch import Tensor

from blocks.base import Context, InputPositions, Intermediate, Site, described
from registry import NonNegative, PositiveFloat, register


@register("sinusoidal")
class SinusoidalPositions(InputPositions):
    """PE(pos, 2i) = sin(pos / theta^(2i/D)), PE(pos, 2i+1) = cos of the same; nothing is learned.

    Args:
        theta: longest wavelength in tokens, divided by 2 pi.
        layout: alternate sines and cosines (interleaved, the paper), or all sines before all cosines (halves).
        spacing: the lowest frequency is theta^(2/D - 1) (paper) or 1/theta (closed, tensor2tensor).
        offset: number of the first position.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762, section 3.5"
    formula = (
        "y_t = x_t + PE(t); PE(t, 2i) = sin(t / theta^(2i/D)); PE(t, 2i+1) = cos(t / theta^(2i/D)); "
        '"halves:" PE(t, i) = sin(t / theta^(2i/D)); "halves:" PE(t, D/2+i) = cos(t / theta^(2i/D))'
    )
    intermediates = described(
        encoding=Intermediate(
            "A vector for each position: sines and cosines of many wavelengths.",
            ("token", "width"),
            "P_(pos, {sine}) = sin({place} / {theta}^(i / {steps})); "
            "P_(pos, {cosine}) = cos({place} / {theta}^(i / {steps})); i = 0, ..., {last}",
        ),
        output=Intermediate(
            "Vectors of tokens and of their positions are added.",
            ("token", "width"),
            "x + P_(pos)",
            ("input", "encoding"),
        ),
    )

    def __init__(
        self,
        site: Site,
        *,
        theta: PositiveFloat = 10000.0,
        layout: Literal["interleaved", "halves"] = "interleaved",
        spacing: Literal["paper", "closed"] = "paper",
        offset: NonNegative = 0,
    ) -> None:
        super().__init__(site)
        if site.dim % 2:
            raise ValueError(f"sinusoidal positions pair channels, but dim={site.dim} is odd; choose an even dim")
        self.pairs, self.theta, self.layout, self.offset = site.dim // 2, theta, layout, offset
        self.steps = self.pairs if spacing == "paper" else max(self.pairs - 1, 1)

    @property
    def sine(self) -> str:
        """The channel of the sine of pair i, in the formula."""
        return "2i" if self.layout == "interleaved" else "i"

    @property
    def cosine(self) -> str:
        """The channel of the cosine of pair i, in the formula."""
        return "2i+1" if self.layout == "interleaved" else f"{self.pairs}+i"

    @property
    def place(self) -> str:
        """The number of a position, in the formula."""
        return f"(pos + {self.offset})" if self.offset else "pos"

    @property
    def last(self) -> int:
        """Index of the last pair."""
        return self.pairs - 1

    def forward(self, x: Tensor, context: Context) -> Tensor:
        encoding = self.encode(context.positions).to(x.dtype).expand_as(x)
        self.record(encoding=encoding)
        return x + encoding

    def encode(self, positions: Tensor) -> Tensor:
        """(B, T) positions -> (B, T, D) float32"""
        pairs = torch.arange(self.pairs, device=positions.device, dtype=torch.float32)
        angles = (positions[..., None] + self.offset) * torch.exp(pairs * (-math.log(self.theta) / self.steps))
        pair = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (B, T, D/2, 2)
        return pair.flatten(-2) if self.layout == "interleaved" else pair.transpose(-1, -2).flatten(-2)
