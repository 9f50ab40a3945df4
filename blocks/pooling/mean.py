"""Pooling by the mean."""

import torch
from torch import Tensor

from blocks.base import Pooling
from registry import register


@register("mean")
class MeanPooling(Pooling):
    """The mean of the tokens' vectors."""

    paper = "Reimers & Gurevych, 2019, Sentence-BERT, arXiv:1908.10084, section 3"
    formula = "y = 1 / T * sum_(t=1)^T x_t"

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        total = x.masked_fill(~mask[..., None], 0.0).sum(dim=1, dtype=exact)
        return (total / mask.sum(dim=1, keepdim=True).clamp(min=1)).to(x.dtype)
