"""A feed-forward between norms of its own."""

from torch import Tensor

from blocks.base import Context, Factory, FeedForward, Norm, Site
from blocks.feedforward.mlp import MLP
from blocks.norms.layer import LayerNorm
from registry import register


@register("normed")
class NormedFeedForward(FeedForward):
    """after(inner(before(x))), for a feed-forward that is a part of another, such as one beside experts.

    The norms of a sublayer of the residual stream are set by its residual.

    Args:
        before: norm of the input; null: disabled.
        after: norm of the output; null: disabled.
        inner: the feed-forward.
    """

    paper = "Google, 2026 (Gemma 4)"
    formula = "y = after(inner(before(x)))"

    def __init__(
        self,
        site: Site,
        *,
        before: Factory[Norm] | None = LayerNorm,
        after: Factory[Norm] | None = None,
        inner: Factory[FeedForward] = MLP,
    ) -> None:
        super().__init__(site)
        self.before, self.after = before(site) if before else None, after(site) if after else None
        self.inner = inner(site)
        if self.inner.is_noop:
            raise ValueError("inner is none, which has nothing to normalise; choose another feed-forward")

    @property
    def zero_at_zero(self) -> bool:
        return self.inner.zero_at_zero

    def prepare(self, context: Context) -> None:
        self.inner.prepare(context)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x if self.before is None else self.before(x))
        return y if self.after is None else self.after(y)
