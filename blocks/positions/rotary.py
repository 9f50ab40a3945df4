"""Rotary positions."""

import torch
from torch import Tensor

from blocks.base import AttentionPositions, Context, Site
from registry import PositiveFloat, Share, register


@register("rotary")
class RotaryPositions(AttentionPositions):
    """Turn pairs of query and key channels by an angle that grows with the position, so that scores see only distances.

    Channel pair i of K turns by pos * theta^(-2i/K).

    Args:
        theta: longest wavelength, in tokens, over 2 pi.
        fraction: share of each head's channels that is turned; the rest sees no position.
        interleaved: pair neighbouring channels (the paper, GPT-J) instead of the two halves (GPT-NeoX, Llama).
    """

    paper = "Su et al., 2021, arXiv:2104.09864"

    def __init__(
        self, site: Site, *, theta: PositiveFloat = 10000.0, fraction: Share = 1.0, interleaved: bool = False
    ) -> None:
        super().__init__(site)
        self.width = int(site.dim * fraction)
        if self.width % 2 or not self.width:
            raise ValueError(
                f"rotary positions pair channels, but fraction={fraction} of a head of {site.dim} is {self.width}"
            )
        self.theta, self.interleaved = theta, interleaved

    def prepare(self, context: Context) -> None:
        self.tables(context)

    def tables(self, context: Context) -> tuple[Tensor, Tensor]:
        """Cosines and sines of all angles, (B or 1, 1, T, width/2) float32; made once a forward."""
        return context.once(("rotary", self.theta, self.width), lambda: self._tables(context.positions))

    def _tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        exponents = torch.arange(0, self.width, 2, device=positions.device, dtype=torch.float32) / self.width
        angles = positions[:, None, :, None] * self.theta**-exponents
        return angles.cos(), angles.sin()

    def rotate(self, x: Tensor, context: Context) -> Tensor:
        cos, sin = self.tables(context)
        turned, rest = x[..., : self.width], x[..., self.width :]
        if self.interleaved:
            a, b = turned[..., ::2], turned[..., 1::2]
            turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)
        else:
            a, b = turned.chunk(2, dim=-1)
            turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned
