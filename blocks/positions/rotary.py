"""Rotary positions."""

import torch
from torch import Tensor

from blocks.base import AttentionPositions, Context, RotaryScaling, ScalingFactory, Site, growth
from registry import Capabilities, PositiveFloat, Share, register


@register("rotary")
class RotaryPositions(AttentionPositions):
    """Turn pairs of query and key channels by an angle that grows with the position, so that scores see only distances.

    Channel pair i of K turns by pos * theta^(-2i/K).

    Args:
        theta: longest wavelength, in tokens, over 2 pi.
        fraction: share of each head's channels that is turned; the rest sees no position.
        interleaved: pair neighbouring channels (the paper, GPT-J) instead of the two halves (GPT-NeoX, Llama).
        scaling: stretches the angles to longer texts; null: not.
    """

    paper = "Su et al., 2021, arXiv:2104.09864"
    capabilities = Capabilities(needs=frozenset({"rotation"}))

    def __init__(
        self,
        site: Site,
        *,
        theta: PositiveFloat = 10000.0,
        fraction: Share = 1.0,
        interleaved: bool = False,
        scaling: ScalingFactory | None = None,
    ) -> None:
        super().__init__(site)
        self.width = int(site.dim * fraction)
        if self.width % 2 or not self.width:
            raise ValueError(
                f"rotary positions pair channels, but fraction={fraction} of a head of {site.dim} is {self.width}"
            )
        self.theta, self.interleaved = theta, interleaved
        self.scaling = scaling(self.width, theta) if scaling else None
        self._key = ("rotary", theta, self.width, None if self.scaling is None else self.scaling.key)

    def prepare(self, context: Context) -> None:
        self.tables(context)

    def tables(self, context: Context) -> tuple[Tensor, Tensor]:
        """Cosines and sines of all angles, (B or 1, 1, T, width/2) float32; made once a forward."""
        return context.once(self._key, lambda: self._tables(context))

    def _tables(self, context: Context) -> tuple[Tensor, Tensor]:
        positions = context.positions
        exponents = torch.arange(0, self.width, 2, device=positions.device, dtype=torch.float32) / self.width
        frequencies, magnitude = 1.0 / self.theta**exponents, 1.0
        if self.scaling is not None:
            _refuse_to_grow(self.scaling, context)
            frequencies, magnitude = self.scaling.stretched(frequencies, context), self.scaling.magnitude()
            frequencies = frequencies[:, None] if frequencies.ndim == 3 else frequencies
        angles = positions[:, None, :, None] * frequencies
        return angles.cos() * magnitude, angles.sin() * magnitude

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


def _refuse_to_grow(scaling: RotaryScaling, context: Context) -> None:
    if not scaling.grows or not context.offset:
        return
    for before, after in growth(context.attention_mask, context.offset, context.offset + context.length):
        if scaling.changes(before, after):
            raise ValueError(
                f"a text that grows from {before} to {after} tokens is turned otherwise from its first token on, so "
                "that the cache is wrong: read it again with a new one"
            )
