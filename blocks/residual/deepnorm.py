"""A post-norm residual for very deep stacks."""

from collections.abc import Callable

from torch import Tensor, nn

from blocks.base import Factory, Norm, Residual, Site
from blocks.norms.layer import LayerNorm
from blocks.residual.update import sum_of
from registry import PositiveFloat, Probability, register


@register("deepnorm")
class DeepNorm(Residual):
    """norm(alpha * x + dropout(f(x))): the stream's weight grows with the depth of the stack.

    Args:
        alpha: weight of the stream; null: (2 * depth)^(1/4), the paper's value for a model with one stack.
        norm: norm after the sum.
        dropout: probability of zeroing an element of the sublayer's output during training.
    """

    paper = "Wang et al., 2022, arXiv:2203.00555"
    formula = "y = norm(alpha x + dropout(f(x)))"

    intermediates = sum_of("norm({alpha} x + f(x))", "{alpha} x + f(x)")

    def __init__(
        self,
        site: Site,
        *,
        alpha: PositiveFloat | None = None,
        norm: Factory[Norm] = LayerNorm,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        self.alpha = alpha or (2 * site.depth) ** 0.25
        self.norm = norm(site)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        update = self.dropout(sublayer(x))
        total = self.alpha * x + update
        self.record(update=update, total=total)
        return self.norm(total)
