"""Rotary position embeddings."""

from collections.abc import Hashable
from typing import Literal

import torch
from torch import Tensor

from blocks.base import AttentionPositions, Context, RotaryScaling, ScalingFactory, Site, growth
from registry import Capabilities, PositiveFloat, Share, register


@register("rotary")
class RotaryPositions(AttentionPositions):
    """Rotate pairs of query and key channels by an angle proportional to the position.

    Channel pair i of K is rotated by pos * theta^(-2i/K), so that scores depend on relative positions only.

    Args:
        theta: longest wavelength in tokens, divided by 2 pi.
        fraction: fraction of each head's channels to rotate.
        fraction_of: rotate the first channels, as a head that is narrower (channels), or those pairs of the whole head
            that turn the fastest (pairs).
        interleaved: pair neighbouring channels (the paper, GPT-J) instead of channels of the two halves (GPT-NeoX,
            Llama).
        reverse: rotate by the negative angles.
        scaling: extends the angles to longer sequences; null: disabled.
    """

    paper = "Su et al., 2021, arXiv:2104.09864"
    formula = (
        "s_(t,u) = scale * (R_t q_t)^T R_u k_u = scale * q_t^T R_(u-t) k_u; "
        'R_t "turns the pair" i "by the angle" t theta^(-2i/K)'
    )
    capabilities = Capabilities(needs=frozenset({"rotation"}))

    def __init__(
        self,
        site: Site,
        *,
        theta: PositiveFloat = 10000.0,
        fraction: Share = 1.0,
        fraction_of: Literal["channels", "pairs"] = "channels",
        interleaved: bool = False,
        reverse: bool = False,
        scaling: ScalingFactory | None = None,
    ) -> None:
        super().__init__(site)
        rotated = int(site.dim * fraction)
        self.width, self.turning = site.dim if fraction_of == "pairs" else rotated, rotated // 2  # channels, pairs
        if self.width % 2 or not self.turning:
            raise ValueError(
                f"rotary positions pair channels, but fraction={fraction} of head_dim={site.dim} is {rotated}; "
                "choose values that give an even number"
            )
        self.theta, self.interleaved, self.reverse = theta, interleaved, reverse
        self.scaling = scaling(self.width, theta) if scaling else None
        scaled = None if self.scaling is None else self.scaling.key
        self._key = ("rotary", theta, self.width, self.turning, reverse, scaled)

    @property
    def rotation(self) -> Hashable:
        return *self._key, self.interleaved

    def prepare(self, context: Context) -> None:
        self.tables(context)

    def tables(self, context: Context) -> tuple[Tensor, Tensor]:
        """Cosines and sines of all angles, (B or 1, 1, T, width/2) float32; computed once per forward."""
        return context.once(self._key, lambda: self._tables(context))

    def _tables(self, context: Context) -> tuple[Tensor, Tensor]:
        positions = context.positions
        exponents = torch.arange(0, self.width, 2, device=positions.device, dtype=torch.float32) / self.width
        frequencies, magnitude = 1.0 / self.theta**exponents, 1.0
        if self.scaling is not None:
            _check_cached_keys(self.scaling, context)
            frequencies, magnitude = self.scaling.scaled_frequencies(frequencies, context), self.scaling.magnitude()
            frequencies = frequencies[:, None] if frequencies.ndim == 3 else frequencies
        if 2 * self.turning < self.width:
            frequencies = frequencies * (torch.arange(self.width // 2, device=positions.device) < self.turning)
        angles = positions[:, None, :, None] * (-frequencies if self.reverse else frequencies)
        return angles.cos() * magnitude, angles.sin() * magnitude

    def rotate(self, x: Tensor, context: Context) -> Tensor:
        cos, sin = self.tables(context)
        rotated, rest = x[..., : self.width], x[..., self.width :]
        if self.interleaved:
            a, b = rotated[..., ::2], rotated[..., 1::2]
            rotated = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)
        else:
            a, b = rotated.chunk(2, dim=-1)
            rotated = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
        return torch.cat([rotated, rest], dim=-1) if rest.shape[-1] else rotated


def _check_cached_keys(scaling: RotaryScaling, context: Context) -> None:
    if not scaling.depends_on_length or not context.offset:
        return
    for before, after in growth(context.attention_mask, context.offset, context.offset + context.length):
        if scaling.invalidates_cache(before, after):
            raise ValueError(
                f"RoPE scaling changes between {before} and {after} tokens, so that cached keys are invalid: recompute "
                "the whole sequence with a new cache"
            )
