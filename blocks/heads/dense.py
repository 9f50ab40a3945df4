"""One dense layer before the outputs of a head."""

from collections.abc import Mapping
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from blocks.activations.pointwise import Tanh
from blocks.base import Activation, Axis, Fixed, Linear, Site, SitelessFactory, Transform
from registry import Positive, register


@register("dense")
class DenseTransform(Transform):
    """activation(W x + b); with tanh after `pooling: first` it is BERT's pooler.

    Args:
        activation: non-linearity after the projection.
        bias: use a bias in the projections.
        hidden: widths of further projections before it, each followed by the activation.
    """

    paper = "Devlin et al., 2018, arXiv:1810.04805"
    formula = "y = activation(W x + b)"

    def __init__(
        self,
        site: Site,
        width: int,
        *,
        activation: SitelessFactory[Activation] = Tanh,
        bias: bool = True,
        hidden: tuple[Positive, ...] = (),
    ) -> None:
        super().__init__(site)
        widths = (site.dim, *hidden)
        self.before = nn.ModuleList(Linear(site, *pair, bias=bias) for pair in pairwise(widths))
        self.activations = nn.ModuleList(activation() for _ in hidden)
        self.project = Linear(site, widths[-1], width, bias=bias)
        self.activation = activation()

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        width = self.project.out_features
        grows = self.site is not None and width == self.site.dim
        projections = {f"before.{index}": one for index, one in enumerate(cast("list[Linear]", self.before))}
        axes: dict[str, tuple[Axis | None, ...]] = {}
        for name, one in projections.items():
            reads = None if name == "before.0" else Fixed(one.in_features)
            axes |= {f"{name}.weight": (Fixed(one.out_features), reads), f"{name}.bias": (Fixed(one.out_features),)}
        reads = Fixed(self.project.in_features) if projections else None
        return axes | {"project.weight": (None if grows else Fixed(width), reads)}

    def forward(self, x: Tensor) -> Tensor:
        for project, activation in zip(self.before, self.activations, strict=True):
            x = activation(project(x))
        return self.activation(self.project(x))
