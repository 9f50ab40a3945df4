"""The mean of residual streams, each channel of which has a gate."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.base import Factory, Fixed, Linear, Norm, Site
from blocks.base.axes import Axis


class GatedMean(nn.Module):
    """mean_i(σ(W_2 silu(W_1 z / N))_i ⊙ z_i) of normalised streams z, side by side where they are multiplied.

    Args:
        site: where it sits.
        streams: number N of residual streams.
        rank: width of the product of two with which the gates are computed.
        norm: norm of the streams, each with weights of its own.
    """

    def __init__(self, site: Site, streams: int, rank: int, norm: Factory[Norm]) -> None:
        super().__init__()
        self.streams = streams
        self.norm = norm(site.resized(site.dim, streams))
        self.down = Linear(site, streams * site.dim, rank, bias=False)
        self.up = Linear(site, rank, streams * site.dim, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Streams (B, T, N, D) -> their mean (B, T, D), the normalised streams and their gates, (B, T, N, D) each."""
        z = self.norm(x)
        gates = torch.sigmoid(self.up(F.silu(self.down(z.flatten(-2)) / self.streams))).view_as(z)
        return (gates * z).mean(dim=-2).to(x.dtype), z, gates

    def axes(self, prefix: str) -> dict[str, tuple[Axis | None, ...]]:
        """The axes of its projections, for the block that holds it under a name."""
        rank = Fixed(self.down.out_features)
        return {f"{prefix}.down.weight": (rank, None), f"{prefix}.up.weight": (None, rank)}
