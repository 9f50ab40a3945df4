"""A head with its own projection."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from blocks.base import Axis, Fixed, Head, Intermediate, Linear, Site, TransformFactory, Vocabulary, described
from blocks.heads.logit_scaling import LogitScaling
from registry import PositiveFloat, register


@register("own")
class OwnHead(Head):
    """A linear projection to the vocabulary, not shared with the embedding.

    Args:
        bias: add a learned bias per token to the logits.
        transform: applied to the vectors before the projection; null: disabled.
        scale: factor on the logits; inverse_sqrt_dim: 1 / sqrt(dim).
        softcap: bound c on the logits, as c * tanh(logit / c); null: disabled.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762, section 3.4"
    formula = "logits = W transform(x) + b"
    intermediates = described(
        output=Intermediate(
            "The logits: a score of each token of the vocabulary.",
            ("token", "vocabulary"),
            "L = softcap({logit_scaling.scale:*}transform(x) W{project:+ b})",
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
        transform: TransformFactory | None = None,
        scale: Literal["inverse_sqrt_dim"] | PositiveFloat = 1.0,
        softcap: PositiveFloat | None = None,
    ) -> None:
        super().__init__(site)
        self.transform = transform(site, width) if transform else None
        self.project = Linear(site, width if transform else site.dim, vocab_size, bias=bias)
        self.logit_scaling = LogitScaling(site, scale, softcap)

    @property
    def softcap(self) -> float | None:
        """Bound on the logits."""
        return self.logit_scaling.softcap

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        tokens, width = Vocabulary(self.project.out_features), self.project.in_features
        same = self.site is None or width == self.site.dim
        return {"project.weight": (tokens, None if same else Fixed(width)), "project.bias": (tokens,)}

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        x = x if self.transform is None else self.transform(x)
        return self.logit_scaling(self.project.product(x), self.project.bias)
