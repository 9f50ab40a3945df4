"""The norm on the sublayer's output."""

from collections.abc import Callable

from torch import Tensor, nn

from blocks.base import AdditiveResidual, Factory, Norm, Site
from blocks.norms.layer import LayerNorm
from blocks.residual.update import sum_of
from registry import Probability, register


@register("output")
class OutputNorm(AdditiveResidual):
    """x + dropout(norm(f(x))): the norm is inside the branch, after the sublayer.

    Args:
        norm: norm after the sublayer.
        dropout: probability of zeroing an element of the sublayer's output during training.
    """

    paper = "Liu et al., 2021, arXiv:2111.09883; OLMo Team, 2025, arXiv:2501.00656"
    formula = "y = x + dropout(norm(f(x)))"

    intermediates = sum_of("x + norm(f(x))")

    def __init__(self, site: Site, *, norm: Factory[Norm] = LayerNorm, dropout: Probability = 0.0) -> None:
        super().__init__(site)
        self.norm = norm(site)
        self.dropout = nn.Dropout(dropout)

    def update(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return self.dropout(self.norm(sublayer(x)))
