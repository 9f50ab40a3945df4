"""A head that gives some values for each token."""

from collections.abc import Mapping

from torch import Tensor

from blocks.base import Axis, Fixed, Head, Linear, Site, TransformFactory
from registry import Positive, register


@register("per_token")
class PerTokenHead(Head):
    """W transform(x) + b: a row of outputs for each token, such as the logit that it was replaced.

    Args:
        outputs: number of values in a row.
        transform: applied to the vectors before the projection; null: disabled.
    """

    paper = "Clark et al., 2020, ELECTRA: Pre-training Text Encoders as Discriminators, arXiv:2003.10555"
    formula = "logits = W transform(x) + b"
    per_token = True

    def __init__(
        self,
        site: Site,
        vocab_size: int,
        width: int,
        *,
        outputs: Positive = 1,
        transform: TransformFactory | None = None,
    ) -> None:
        super().__init__(site)
        self.transform = transform(site, site.dim) if transform else None
        self.output = Linear(site, site.dim, outputs)
        self.values = outputs

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"output.weight": (Fixed(self.values), None), "output.bias": (Fixed(self.values),)}

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return self.output(x if self.transform is None else self.transform(x))
