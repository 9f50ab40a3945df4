"""Scale, bias and softcap of logits."""

from typing import Literal

import torch
from torch import Tensor


class LogitScaling:
    """cap(logits * scale + bias)"""

    def __init__(self, dim: int, scale: Literal["inverse_sqrt_dim"] | float, softcap: float | None) -> None:
        self.scale = dim**-0.5 if scale == "inverse_sqrt_dim" else scale
        self.softcap = softcap

    def __call__(self, logits: Tensor, bias: Tensor | None) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        if bias is not None:
            logits = logits + bias
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
