"""One dense layer before the outputs of a head."""

from collections.abc import Mapping

from torch import Tensor

from blocks.activations.pointwise import Tanh
from blocks.base import Activation, Axis, Fixed, Linear, Site, SitelessFactory, Transform
from registry import register


@register("dense")
class DenseTransform(Transform):
    """activation(W x + b); with tanh after `pooling: first` it is BERT's pooler.

    Args:
        activation: non-linearity after the projection.
        bias: use a bias in the projection.
    """

    paper = "Devlin et al., 2018, arXiv:1810.04805"
    formula = "y = activation(W x + b)"

    def __init__(
        self, site: Site, width: int, *, activation: SitelessFactory[Activation] = Tanh, bias: bool = True
    ) -> None:
        super().__init__(site)
        self.project = Linear(site, site.dim, width, bias=bias)
        self.activation = activation()

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        width = self.project.out_features
        return {"project.weight": (None if width == self.project.in_features else Fixed(width), None)}

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.project(x))
