"""Projections of all residual streams but the first, with the magnitude of the first."""

import torch
from torch import Tensor, nn

from blocks.base import Axis, Linear, Site
from blocks.base.precision import at_least_float32

SMALLEST = 1e-5
"""Smallest mean square of a projection that is scaled up to a magnitude."""


class StreamProjections(nn.Module):
    """(x_1, s_2 W_2 x_2, ..., s_N W_N x_N), where s_i makes the root mean square of each that of x_1.

    Args:
        site: where it sits.
        streams: number N of residual streams.
    """

    def __init__(self, site: Site, streams: int) -> None:
        super().__init__()
        self.others = nn.ModuleList(Linear(site, site.dim, site.dim, bias=False) for _ in range(streams - 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N, D) -> (B, T, N, D)"""
        first, *others = x.unbind(dim=-2)
        wanted = _mean_square(first)
        wanted = wanted.clamp(min=torch.finfo(wanted.dtype).tiny)  # the root of 0 has no gradient
        found = [first]
        for project, stream in zip(self.others, others, strict=True):
            y = project(stream)
            scale = (wanted / _mean_square(y).clamp(min=SMALLEST)).sqrt()
            found.append((y * scale).to(x.dtype))
        return torch.stack(found, dim=-2)

    def axes(self, prefix: str) -> dict[str, tuple[Axis | None, ...]]:
        """The axes of its projections, for the block that holds it under a name."""
        return {f"{prefix}.others.{index}.weight": (None, None) for index in range(len(self.others))}


def _mean_square(x: Tensor) -> Tensor:
    return at_least_float32(x).square().mean(dim=-1, keepdim=True)
