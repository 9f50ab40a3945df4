"""Scale, bias and softcap of logits."""

from typing import Literal

import torch
from torch import Tensor

from blocks.base import Site


class LogitScaling:
    """cap(logits * scale + bias)

    Args:
        site: the head's site; ``inverse_sqrt_dim`` is taken at its base width.
        scale: as for the heads.
        softcap: as for the heads.
        divisor: divides the scale.
    """

    def __init__(
        self, site: Site, scale: Literal["inverse_sqrt_dim"] | float, softcap: float | None, divisor: float = 1.0
    ) -> None:
        at_base = (site.dim / site.width_multiplier) ** -0.5 if scale == "inverse_sqrt_dim" else scale
        self.scale = at_base / divisor
        self.softcap = softcap

    def __call__(self, logits: Tensor, bias: Tensor | None) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        if bias is not None:
            logits = logits + bias
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
