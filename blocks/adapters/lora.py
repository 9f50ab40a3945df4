"""Low-rank adapters."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.base import Adapter
from blocks.base.grouped import grouped_linear
from registry import Cut, Positive, PositiveFloat, Probability, register


@register("lora")
class LoRA(Adapter):
    """factor * B A x: a change of low rank to a projection, with A drawn by the model's init and B = 0 at the start.

    With experts, one A and B per expert.

    Args:
        rank: rows of A and columns of B.
        alpha: numerator of the factor.
        scaling: denominator of the factor: rank, or sqrt_rank (rsLoRA), so that a larger rank does not learn slower.
        dropout: probability of zeroing an element of the input of A during training.
    """

    paper = "Hu et al., 2021, arXiv:2106.09685; scaling by sqrt_rank: Kalajdzievski, 2023, arXiv:2312.03732"
    formula = "y = W x + factor * B A x"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        experts: int | None,
        *,
        rank: Positive = 8,
        alpha: PositiveFloat = 16.0,
        scaling: Literal["rank", "sqrt_rank"] = "rank",
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        leading = () if experts is None else (experts,)
        self.a = nn.Parameter(torch.empty(*leading, rank, in_features))
        self.b = nn.Parameter(torch.zeros(*leading, out_features, rank))
        self.factor = alpha / (rank if scaling == "rank" else rank**0.5)
        self.dropout = nn.Dropout(dropout)

    def constants(self) -> Mapping[str, float]:
        return {"b": 0.0}

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        x = self.dropout(x)
        if offsets is None:
            return self.factor * F.linear(F.linear(x, self.a), self.b)
        return self.factor * grouped_linear(grouped_linear(x, self.a, offsets), self.b, offsets)

    def delta(self) -> Tensor:
        wide = torch.promote_types(self.a.dtype, torch.float32)
        return self.factor * (self.b.to(wide) @ self.a.to(wide))

    def cuts(self, cut: Cut) -> Mapping[str, int | None]:
        return {"a": None, "b": -2} if cut == "columns" else {"a": -1, "b": None}

    def extra_repr(self) -> str:
        return f"rank={self.a.shape[-2]}, factor={self.factor:g}"

    def flops_per_token(self, length: int) -> float:
        return 2 * (self.a.shape[-2] * self.a.shape[-1] + self.b.shape[-2] * self.b.shape[-1])
