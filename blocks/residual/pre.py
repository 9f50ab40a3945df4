"""The norm before the sublayer."""

from collections.abc import Callable

from torch import Tensor, nn

from blocks.base import AdditiveResidual, Factory, Norm, Site
from blocks.norms.layer import LayerNorm
from blocks.residual.update import sum_of
from registry import Probability, register


@register("pre")
class PreNorm(AdditiveResidual):
    """x + dropout(f(norm(x))): the stream itself is never normalised, so deep stacks train without warm-up.

    Args:
        norm: norm before the sublayer.
        dropout: probability of zeroing an element of the sublayer's output during training.
    """

    paper = "Xiong et al., 2020, arXiv:2002.04745"
    formula = "y = x + dropout(f(norm(x)))"

    intermediates = sum_of("x + f(norm(x))")

    def __init__(self, site: Site, *, norm: Factory[Norm] = LayerNorm, dropout: Probability = 0.0) -> None:
        super().__init__(site)
        self.norm = norm(site)
        self.dropout = nn.Dropout(dropout)

    @property
    def identity_at_zero(self) -> bool:
        return True

    def update(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return self.dropout(sublayer(self.norm(x)))
