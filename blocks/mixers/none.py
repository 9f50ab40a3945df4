"""No mixer."""

from torch import Tensor

from blocks.base import Context, Mixer, Site
from registry import Capabilities, register


@register("none")
class NoMixer(Mixer):
    """No sublayer, norm or residual: for layers that only have a feed-forward."""

    formula = "y = x"

    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}))
    is_noop = True
    window = 1

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return x
