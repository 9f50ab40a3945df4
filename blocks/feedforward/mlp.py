"""The plain feed-forward."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from blocks.activations.pointwise import ReLU
from blocks.base import Activation, Axis, Expert, Linear, Site, SitelessFactory
from registry import Capabilities, Positive, Probability, register

Projection = Literal["up", "down"]


@register("mlp")
class MLP(Expert):
    """down(activation(up(x))).

    Args:
        hidden: width between the two projections; null: 4 * dim.
        activation: non-linearity between the projections.
        bias: biases in both projections, or a list of the projections that have one, out of up, down.
        dropout: probability of zeroing a hidden channel during training.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762, section 3.3"
    outputs = ("down",)
    capabilities = Capabilities(shards={"up": "columns", "down": "rows"})

    def __init__(
        self,
        site: Site,
        *,
        hidden: Positive | None = None,
        activation: SitelessFactory[Activation] = ReLU,
        bias: bool | tuple[Projection, ...] = True,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        hidden = hidden or 4 * site.dim
        biased = ("up", "down") if bias is True else bias or ()
        self.up = Linear(site, site.dim, hidden, bias="up" in biased)
        self.activation = activation()
        self.dropout = nn.Dropout(dropout)
        self.down = Linear(site, hidden, site.dim, bias="down" in biased)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return self.between(self.up.out_features, ("up",), ("down",))

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        return self.down(self.dropout(self.activation(self.up(x, offsets))), offsets)
