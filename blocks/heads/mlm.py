"""BERT's transform before the projection to the vocabulary."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from blocks.activations.pointwise import GELU
from blocks.base import Activation, Axis, Factory, Fixed, Linear, Norm, Site, SitelessFactory, Transform
from blocks.norms.layer import LayerNorm
from registry import register


@register("mlm")
class MLMTransform(Transform):
    """norm(activation(dense(x))), with the width of the token table.

    Args:
        activation: non-linearity after the dense projection.
        norm: norm after the activation.
        bias: use a bias in the dense projection.
    """

    paper = "Devlin et al., 2018, arXiv:1810.04805"
    formula = "y = norm(activation(dense(x)))"

    def __init__(
        self,
        site: Site,
        width: int,
        *,
        activation: SitelessFactory[Activation] = GELU,
        norm: Factory[Norm] = LayerNorm,
        bias: bool = True,
    ) -> None:
        super().__init__(site)
        self.dense = Linear(site, site.dim, width, bias=bias)
        self.activation = activation()
        wider = site.width_multiplier if width == site.dim else 1.0  # a width of the table's own stays
        self.norm = norm(replace(site.resized(width), width_multiplier=wider))

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        width = self.dense.out_features
        return {"dense.weight": (None if width == self.dense.in_features else Fixed(width), None)}

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(x)))
