"""No normalisation."""

from torch import Tensor

from blocks.base import Norm, Site
from registry import register


@register("none")
class NoNorm(Norm):
    """Leave vectors as they are, to see what a norm is worth."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x: Tensor) -> Tensor:
        return x
