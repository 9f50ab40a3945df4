"""The norm on the stream itself, before the sublayer."""

from collections.abc import Callable

from torch import Tensor, nn

from blocks.base import Factory, Norm, Residual, Site
from blocks.norms.layer import LayerNorm
from blocks.residual.update import sum_of
from registry import Probability, register


@register("normed")
class NormedStream(Residual):
    """stream * n + branch * dropout(f(n)) with n = norm(x): the sum is of the normalised input, and not of x.

    Args:
        norm: norm before the sublayer and the sum.
        stream: factor on the normalised input.
        branch: factor on the sublayer's output.
        dropout: probability of zeroing an element of the sublayer's output during training.
    """

    paper = "MiniMax, 2025, arXiv:2501.08313"
    formula = "y = stream * norm(x) + branch * dropout(f(norm(x)))"

    intermediates = sum_of("{stream:*}norm(x) + {branch:*}f(norm(x))")

    def __init__(
        self,
        site: Site,
        *,
        norm: Factory[Norm] = LayerNorm,
        stream: float = 1.0,
        branch: float = 1.0,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        self.norm, self.stream, self.branch = norm(site), stream, branch
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        normed = self.norm(x)
        update = self.branch * self.dropout(sublayer(normed))
        self.record(update=update)
        return self.stream * normed + update
