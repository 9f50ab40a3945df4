"""The product of tokens and the router's weights."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.base.precision import without_autocast


def router_logits(linear: nn.Linear, x: Tensor) -> Tensor:
    """(N, D) -> (N, E) in float32 or wider, because rounding to 16 bits would change the choice."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    weight, bias = linear.weight.to(dtype), cast("Tensor | None", linear.bias)
    with without_autocast(x):
        return F.linear(x.to(dtype), weight, None if bias is None else bias.to(dtype))
