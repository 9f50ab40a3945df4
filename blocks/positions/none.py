"""No positions."""

from torch import Tensor

from blocks.base import AttentionPositions, Context, InputPositions, Site
from registry import register


@register("none")
class NoInputPositions(InputPositions):
    """Add nothing: positions come from the mixers, or from the causal mask alone."""

    absolute = False

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return x


@register("none")
class NoAttentionPositions(AttentionPositions):
    """Leave queries, keys and scores alone: positions come with the embeddings, or from the causal mask alone."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
