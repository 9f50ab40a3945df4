"""A head that gives one row of outputs for each text."""

from collections.abc import Mapping

from torch import Tensor, nn

from blocks.base import Axis, Context, Factory, Fixed, Head, Linear, Pooling, Site, TransformFactory
from blocks.pooling.mean import MeanPooling
from registry import Capabilities, Positive, Probability, register


@register("pooled")
class PooledHead(Head):
    """W transform(pooling(x)) + b: one row for each text, such as logits of classes, a prediction, or an embedding.

    Args:
        pooling: makes one vector of those of the tokens.
        transform: applied to that vector; null: disabled.
        outputs: number of values in a row: classes to choose from, or 1 for a regression; null: the row is the vector
            itself, of width dim (a sentence embedding).
        dropout: probability of zeroing an element of the vector before the projection, during training.
    """

    paper = "Devlin et al., 2018, arXiv:1810.04805, section 4.1; Reimers & Gurevych, 2019, arXiv:1908.10084"
    formula = "logits = W transform(pooling(x_1, ..., x_T)) + b"
    capabilities = Capabilities(documents=False, cache=False)
    pooled = True

    def __init__(
        self,
        site: Site,
        vocab_size: int,
        width: int,
        *,
        pooling: Factory[Pooling] = MeanPooling,
        transform: TransformFactory | None = None,
        outputs: Positive | None = None,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        self.pooling = pooling(site)
        self.transform = transform(site, site.dim) if transform else None
        self.dropout = nn.Dropout(dropout)
        self.output = Linear(site, site.dim, outputs) if outputs else None
        self.values = outputs or site.dim

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {} if self.output is None else {"output.weight": (Fixed(self.output.out_features), None)}

    def pool(self, x: Tensor, context: Context) -> Tensor:
        return self.pooling(x, context)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        x = self.dropout(x if self.transform is None else self.transform(x))
        return x if self.output is None else self.output(x)

    def flops_per_token(self, length: int) -> float:
        once = super().flops_per_token(length) - self.pooling.flops_per_token(length)
        return self.pooling.flops_per_token(length) + once / length
