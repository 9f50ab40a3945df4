"""No position encoding."""

from torch import Tensor

from blocks.base import AttentionPositions, Context, InputPositions, Site
from registry import register


@register("none")
class NoInputPositions(InputPositions):
    """No position encoding of the embeddings: positions come from the mixers or the causal mask."""

    formula = "y_t = x_t"

    absolute = False

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return x


@register("none")
class NoAttentionPositions(AttentionPositions):
    """No positions in the mixer: positions come from the embeddings or the causal mask."""

    formula = "s_(t,u) = scale * q_t^T k_u"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
