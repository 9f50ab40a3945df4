"""Learned relative position biases."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from blocks.base import AttentionPositions, Axis, Context, DistanceBias, Fixed, Site
from blocks.positions.alibi import heads_of
from registry import Capabilities, Positive, register


@register("t5")
class RelativeBias(AttentionPositions):
    """Add a learned bias per head and distance bucket to each score; short distances have a bucket each.

    Half of the buckets hold one distance each, the others grow logarithmically up to ``max_distance``. At a
    bidirectional site, half of the buckets are for later tokens. As a stack's ``positions``, all layers share one table
    (T5).

    Args:
        buckets: number of buckets.
        max_distance: distances of at least this many tokens share the last bucket.
        heads: number of heads, required where a stack shares it; null: the mixer's.
    """

    paper = "Raffel et al., 2019, arXiv:1910.10683, section 2.1"
    formula = "s_(h,t,u) = scale * q_(h,t)^T k_(h,u) + table_h[bucket(t - u)]"
    capabilities = Capabilities(needs=frozenset({"bias"}))

    def __init__(
        self, site: Site, *, buckets: Positive = 32, max_distance: Positive = 128, heads: Positive | None = None
    ) -> None:
        super().__init__(site)
        self.buckets, self.max_distance, self.causal = buckets, max_distance, site.causal
        exact = self._exact()
        if exact < 1:
            raise ValueError(f"buckets={buckets} is too small; set at least {2 if site.causal else 4}")
        if max_distance <= exact:
            raise ValueError(
                f"max_distance={max_distance} must be larger than {exact}, the distances with their own bucket"
            )
        self.heads = heads_of(site, heads)
        self.table = nn.Embedding(buckets, self.heads)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"table.weight": (Fixed(self.buckets), Fixed(self.table.embedding_dim))}

    def bias(self, context: Context) -> DistanceBias:
        key = ("buckets", self.buckets, self.max_distance, self.causal)
        buckets = context.once(key, lambda: self.bucket(context.every_distance()))
        return DistanceBias(self.table(buckets).T[None], self.max_distance)

    def _exact(self) -> int:
        """Number of distances with their own bucket."""
        return self.buckets // 2 if self.causal else self.buckets // 4

    def bucket(self, distances: Tensor) -> Tensor:
        """Distances, key minus query -> their buckets."""
        if self.causal:
            count, ahead, far = self.buckets, 0, (-distances).clamp(min=0)
        else:
            count, ahead, far = self.buckets // 2, (distances > 0) * (self.buckets // 2), distances.abs()
        exact = self._exact()
        growth = torch.log(far.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        shared = (exact + (growth * (count - exact)).long()).clamp(max=count - 1)
        return ahead + torch.where(far < exact, far, shared)
