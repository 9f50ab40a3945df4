"""Norms on both sides of the sublayer."""

from collections.abc import Callable

from torch import Tensor, nn

from blocks.base import AdditiveResidual, Factory, Norm, Site
from blocks.norms.layer import LayerNorm
from blocks.residual.update import sum_of
from registry import Probability, register


@register("sandwich")
class SandwichNorm(AdditiveResidual):
    """x + dropout(after(f(before(x)))): normalised outputs are added to the stream.

    Args:
        norm: norm before the sublayer and, unless ``after`` is given, after it.
        after: norm after the sublayer; null: same as ``norm``.
        dropout: probability of zeroing an element of the sublayer's output during training.
    """

    paper = "Ding et al., 2021, arXiv:2105.13290; used by Gemma 2"
    formula = "y = x + dropout(after(f(norm(x))))"

    intermediates = sum_of("x + after(f(norm(x)))")

    def __init__(
        self,
        site: Site,
        *,
        norm: Factory[Norm] = LayerNorm,
        after: Factory[Norm] | None = None,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        self.norm = norm(site)
        self.after = (after or norm)(site)
        self.dropout = nn.Dropout(dropout)

    def update(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return self.dropout(self.after(sublayer(self.norm(x))))
