"""A mixer with constant factors."""

from torch import Tensor

from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Context, Factory, Mixer, Site
from registry import Capabilities, register


@register("scaled")
class ScaledMixer(Mixer):
    """by * inner(input_by * x).

    Args:
        by: constant factor on the output.
        input_by: constant factor on the input.
        inner: the mixer.
    """

    paper = "Zuo et al., 2025, arXiv:2507.22448; Yang et al., 2022, arXiv:2203.03466"
    formula = "y = by * inner(input_by * x)"
    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}))

    def __init__(
        self, site: Site, *, by: float = 1.0, input_by: float = 1.0, inner: Factory[Mixer] = MultiHeadAttention
    ) -> None:
        super().__init__(site)
        self.by, self.input_by, self.inner = by, input_by, inner(site)
        self.window = self.inner.window

    @property
    def zero_at_zero(self) -> bool:
        return self.inner.zero_at_zero

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.inner.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.inner(x * self.input_by, context) * self.by
