"""The gated feed-forward."""

from torch import Tensor, nn

from blocks.activations.pointwise import SiLU
from blocks.base import Activation, FeedForward, Plain, Site
from registry import Positive, Probability, register


@register("glu")
class GLU(FeedForward):
    """down(activation(gate(x)) * up(x)): SwiGLU with silu, GEGLU with gelu, the original GLU with sigmoid.

    Args:
        hidden: width of gate and up; null: 8/3 of the model's width, rounded up to a multiple of 8, which costs the
            parameters of a plain feed-forward of four times the width.
        activation: the non-linearity on the gate.
        bias: biases in all three projections.
        dropout: share of the hidden channels set to zero while training.
    """

    paper = "Shazeer, 2020, arXiv:2002.05202"
    outputs = ("down",)

    def __init__(
        self,
        site: Site,
        *,
        hidden: Positive | None = None,
        activation: Plain[Activation] = SiLU,
        bias: bool = False,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        hidden = hidden or 8 * -(-site.dim // 3)
        self.gate = nn.Linear(site.dim, hidden, bias=bias)
        self.up = nn.Linear(site.dim, hidden, bias=bias)
        self.activation = activation()
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(hidden, site.dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(self.activation(self.gate(x)) * self.up(x)))
