"""Pooling by the maximum."""

import torch
from torch import Tensor

from blocks.base import Pooling
from registry import register


@register("max")
class MaxPooling(Pooling):
    """The largest value of each channel over the tokens."""

    paper = "Reimers & Gurevych, 2019, Sentence-BERT, arXiv:1908.10084, section 3"
    formula = "y_i = max_t x_(t,i)"

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        largest = x.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
        return torch.where(mask.any(dim=1, keepdim=True), largest, 0.0)
