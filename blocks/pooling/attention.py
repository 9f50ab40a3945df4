"""Pooling by learned weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from blocks.base import Axis, Fixed, Linear, Pooling, Site
from registry import Positive, register


@register("attention")
class AttentionPooling(Pooling):
    """A weighted mean of the tokens' vectors: softmax over the tokens of v . tanh(W x + b).

    Args:
        hidden: width of tanh(W x + b); null: dim.
    """

    paper = "Yang et al., 2016, Hierarchical Attention Networks for Document Classification, NAACL, section 2.2"
    formula = "y = sum_t a_t x_t; a = softmax(v^T tanh(W x_1 + b), ..., v^T tanh(W x_T + b))"

    def __init__(self, site: Site, *, hidden: Positive | None = None) -> None:
        super().__init__(site)
        self.project = Linear(site, site.dim, hidden or site.dim)
        self.score = Linear(site, hidden or site.dim, 1, bias=False)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"project.weight": (None, None), "score.weight": (Fixed(1), None)}

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = self.score(torch.tanh(self.project(x))).squeeze(-1)  # (B, T)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=1, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
        return (weights[:, None] @ x).squeeze(1)

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 2 * self.project.in_features
