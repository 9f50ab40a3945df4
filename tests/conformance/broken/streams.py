"""Broken blocks with several residual streams."""

from collections.abc import Callable

import torch
from torch import Tensor

from blocks.base import Readout, Residual, Site
from tests.conformance.broken.base import caught_by


@caught_by("uses_every_stream")
class ReadsOneStream(Residual):
    """Gives the sublayer the first of two streams only."""

    streams = 2

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return x + sublayer(x[..., 0, :])[..., None, :]


@caught_by("uses_every_stream")
class WritesToOneStream(Residual):
    """Adds the update to the first of two streams only."""

    streams = 2

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([x[..., 0, :] + sublayer(x.mean(-2)), x[..., 1, :]], dim=-2)


@caught_by("uses_every_stream")
class LastStream(Readout):
    """Drops all streams but the last."""

    def __init__(self, site: Site, streams: int) -> None:
        super().__init__(site)

    def forward(self, x: Tensor) -> Tensor:
        return x[..., -1, :]
