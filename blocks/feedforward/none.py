"""No feed-forward."""

from torch import Tensor

from blocks.base import FeedForward, Site
from registry import register


@register("none")
class NoFeedForward(FeedForward):
    """No sublayer, norm or residual: for ablations of the feed-forward."""

    formula = "y = x"

    is_noop = True

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x: Tensor) -> Tensor:
        return x
