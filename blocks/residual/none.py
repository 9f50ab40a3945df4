"""No residual connection."""

from collections.abc import Callable

from torch import Tensor, nn

from blocks.base import Factory, Norm, Residual, Site
from blocks.norms.layer import LayerNorm
from registry import Probability, register


@register("none")
class NoResidual(Residual):
    """dropout(f(norm(x))): the sublayer's output replaces the stream, to see what the connection is worth.

    Args:
        norm: norm before the sublayer.
        dropout: probability of zeroing an element of the sublayer's output during training.
    """

    paper = "the connection that is left out: He et al., 2015, arXiv:1512.03385"

    def __init__(self, site: Site, *, norm: Factory[Norm] = LayerNorm, dropout: Probability = 0.0) -> None:
        super().__init__(site)
        self.norm = norm(site)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return self.dropout(sublayer(self.norm(x)))
