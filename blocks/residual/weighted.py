"""Learned weights of the stream and of the sublayer's output."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from blocks.base import Axis, Factory, Norm, Residual, Site
from blocks.norms.layer import LayerNorm
from blocks.residual.update import sum_of
from registry import Probability, register


@register("weighted")
class Weighted(Residual):
    """a ⊙ (x + b) + c ⊙ (dropout(f(norm(x))) + d), with a learned weight and shift of each channel.

    Args:
        norm: norm before the sublayer.
        stream: learn weights of the stream.
        branch: learn weights of the sublayer's output.
        shift: learn shifts of those that have weights, 0 at the start.
        dropout: probability of zeroing an element of the sublayer's output during training.
    """

    paper = "Shi et al., 2025, https://github.com/SmallDoges/small-doge; shifts: Zyphra, 2025 (ZAYA1)"
    formula = "y = a ⊙ (x + b) + c ⊙ (f(norm(x)) + d)"

    intermediates = sum_of("a (x + b) + c (f(norm(x)) + d)")

    def __init__(
        self,
        site: Site,
        *,
        norm: Factory[Norm] = LayerNorm,
        stream: bool = True,
        branch: bool = False,
        shift: bool = False,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        if not stream and not branch:
            raise ValueError("stream and branch are both false, which leaves nothing to learn; choose residual pre")
        self.norm = norm(site)
        self.stream = nn.Parameter(torch.ones(site.dim)) if stream else None
        self.branch = nn.Parameter(torch.ones(site.dim)) if branch else None
        self.stream_shift = nn.Parameter(torch.zeros(site.dim)) if stream and shift else None
        self.branch_shift = nn.Parameter(torch.zeros(site.dim)) if branch and shift else None
        self.dropout = nn.Dropout(dropout)

    def constants(self) -> Mapping[str, float]:
        return {"stream": 1.0, "branch": 1.0, "stream_shift": 0.0, "branch_shift": 0.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return dict.fromkeys(("stream", "branch", "stream_shift", "branch_shift"), (None,))

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        update = _weighted(self.dropout(sublayer(self.norm(x))), self.branch, self.branch_shift)
        self.record(update=update)
        return _weighted(x, self.stream, self.stream_shift) + update


def _weighted(x: Tensor, weight: Tensor | None, shift: Tensor | None) -> Tensor:
    x = x if shift is None else x + shift.expand_as(x)
    return x if weight is None else x * weight.expand_as(x)
