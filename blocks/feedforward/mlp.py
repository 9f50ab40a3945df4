"""The plain feed-forward."""

from torch import Tensor, nn

from blocks.activations.pointwise import ReLU
from blocks.base import Activation, FeedForward, Plain, Site
from registry import Positive, Probability, register


@register("mlp")
class MLP(FeedForward):
    """down(activation(up(x))), the same for every token.

    Args:
        hidden: width between the two projections; null: four times the model's width.
        activation: the non-linearity between them.
        bias: biases in both projections.
        dropout: share of the hidden channels set to zero while training.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762, section 3.3"
    outputs = ("down",)

    def __init__(
        self,
        site: Site,
        *,
        hidden: Positive | None = None,
        activation: Plain[Activation] = ReLU,
        bias: bool = True,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        hidden = hidden or 4 * site.dim
        self.up = nn.Linear(site.dim, hidden, bias=bias)
        self.activation = activation()
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(hidden, site.dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(self.activation(self.up(x))))
