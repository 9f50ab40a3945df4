"""Broken poolings."""

from torch import Tensor

from blocks.base import Context, Pooling
from tests.conformance.broken.base import caught_by


@caught_by("ignores_padding", "ignores_padding_of_each_row")
class CountsPadding(Pooling):
    """Divides by the number of all places."""

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return x.masked_fill(~mask[..., None], 0.0).mean(dim=1)


@caught_by("refuses_documents", "refuses_a_cache")
class PoolsWhatItIsGiven(Pooling):
    """Makes one vector of several documents, and of the tokens after those in a cache."""

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return x.masked_fill(~mask[..., None], 0.0).sum(dim=1)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        mask = context.attention_mask
        return x.sum(dim=1) if mask is None else self.pool(x, mask)


@caught_by("rows_of_padding_give_finite_values")
class DividesByNoTokens(Pooling):
    """Gives NaN where a row has no token."""

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return x.masked_fill(~mask[..., None], 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True)
