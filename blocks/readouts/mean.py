"""The mean of the streams."""

import torch
from torch import Tensor

from blocks.base import Readout, Site
from registry import register


@register("mean")
class MeanReadout(Readout):
    """The mean of all streams, which is the stream itself where they are equal.

    The paper takes the sum, which the norm after it makes the same.
    """

    paper = "Zhu et al., 2024, arXiv:2409.19606"
    formula = "y = 1 / N * sum_i x_i"

    def __init__(self, site: Site, streams: int) -> None:
        super().__init__(site)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=-2, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
