"""No normalisation."""

from torch import Tensor

from blocks.base import Norm, Site
from registry import register


@register("none")
class NoNorm(Norm):
    """The identity: for ablations of a norm."""

    formula = "y = x"

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x: Tensor) -> Tensor:
        return x
