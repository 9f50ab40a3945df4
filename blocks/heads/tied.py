"""A head that shares the embedding's token table."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.base import Axis, Head, Intermediate, Site, TransformFactory, Vocabulary, described
from blocks.heads.logit_scaling import LogitScaling
from registry import PositiveFloat, register


@register("tied")
class TiedHead(Head):
    """x times the transposed token table: embedding and head share one matrix.

    Args:
        bias: add a learned bias per token to the logits.
        extend: where the token table is narrower than dim, join learned columns to it, which are not those of the
            embedding, so that its width is dim.
        transform: applied to the vectors before the projection; null: disabled.
        scale: factor on the logits; inverse_sqrt_dim: 1 / sqrt(dim).
        softcap: bound c on the logits, as c * tanh(logit / c); null: disabled.
    """

    paper = "Press & Wolf, 2016, arXiv:1608.05859; extend: Sun et al., 2020, arXiv:2004.02984"
    formula = "logits = scale * table * transform(x)"
    intermediates = described(
        output=Intermediate(
            "The logits: a score of each token of the vocabulary.",
            ("token", "vocabulary"),
            "L = softcap({logit_scaling.scale:*}transform(x) {matrix}^T{bias:+ b})",
            ("input",),
        )
    )

    def __init__(
        self,
        site: Site,
        vocab_size: int,
        width: int,
        *,
        bias: bool = False,
        extend: bool = False,
        transform: TransformFactory | None = None,
        scale: Literal["inverse_sqrt_dim"] | PositiveFloat = 1.0,
        softcap: PositiveFloat | None = None,
    ) -> None:
        super().__init__(site)
        if extend and width >= site.dim:
            raise ValueError(
                f"extend needs a token table that is narrower than dim={site.dim}, but its width={width}; leave it out"
            )
        read = site.dim if extend else width
        if transform is None and read != site.dim:
            raise ValueError(
                f"the token table has width={width}, but the model has dim={site.dim}; give the head a transform, or "
                "extend=true"
            )
        self.transform = transform(site, read) if transform else None
        self.columns = nn.Linear(site.dim - width, vocab_size, bias=False) if extend else None
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None
        self.tokens, self.size = Vocabulary(vocab_size), vocab_size * width
        # the table is drawn and trained as an embedding, whose entries stay as large in a wider model, so that logits
        # would grow with the width (Yang et al., 2022, arXiv:2203.03466, appendix B.1: the output multiplier)
        wider = site.width_multiplier if width == site.dim else 1.0
        self.logit_scaling = LogitScaling(site, scale, softcap, wider)

    @property
    def softcap(self) -> float | None:
        """Bound on the logits."""
        return self.logit_scaling.softcap

    @property
    def matrix(self) -> str:
        """The matrix of the projection, in the formula: the token table, with the columns that are joined to it."""
        return "E" if self.columns is None else "[E, C]"

    def constants(self) -> Mapping[str, float]:
        return {"bias": 0.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"bias": (self.tokens,), "columns.weight": (self.tokens, None)}

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        x = x if self.transform is None else self.transform(x)
        if self.columns is not None:
            table = torch.cat([table, self.columns.weight.to(table.dtype)], dim=1)  # (V, D)
        return self.logit_scaling(F.linear(x, table), self.bias)

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 2 * self.size
