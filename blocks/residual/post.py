"""The norm after the sum."""

from collections.abc import Callable

from torch import Tensor, nn

from blocks.base import Factory, Norm, Residual, Site
from blocks.norms.layer import LayerNorm
from blocks.residual.update import sum_of
from registry import Probability, register


@register("post")
class PostNorm(Residual):
    """norm(x + dropout(f(x))), as in the original Transformer and BERT. Set the stack's own norm to null.

    Args:
        norm: norm after the sum.
        dropout: probability of zeroing an element of the sublayer's output during training.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762, section 3.1"
    formula = "y = norm(x + dropout(f(x)))"

    intermediates = sum_of("norm(x + f(x))")

    def __init__(self, site: Site, *, norm: Factory[Norm] = LayerNorm, dropout: Probability = 0.0) -> None:
        super().__init__(site)
        self.norm = norm(site)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        update = self.dropout(sublayer(x))
        total = x + update
        self.record(update=update, total=total)
        return self.norm(total)
