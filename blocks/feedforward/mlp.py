"""The plain feed-forward."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from blocks.activations.pointwise import ReLU
from blocks.base import Activation, Axis, Expert, Factory, Intermediate, Linear, Norm, Site, SitelessFactory, described
from registry import Capabilities, Cut, Positive, Probability, register

Projection = Literal["up", "down"]


@register("mlp")
class MLP(Expert):
    """down(activation(up(x))).

    Args:
        hidden: width between the two projections; null: 4 * dim.
        activation: non-linearity between the projections.
        bias: biases in both projections, or a list of the projections that have one, out of up, down.
        groups: number of blocks of each projection that is block-diagonal, by its name out of up, down.
        inner_norm: norm of the hidden channels before down, without weights in experts; null: disabled.
        dropout: probability of zeroing a hidden channel during training.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762, section 3.3; inner norm: Wang et al., 2022, arXiv:2210.06423"
    formula = "y = down(activation(up(x)))"
    outputs = ("down",)
    intermediates = described(
        hidden=Intermediate(
            "Each hidden unit is a weighted sum of the channels of a token's vector.",
            ("token", "unit"),
            "H = X W_up{up:+ b_up}",
            ("input",),
        ),
        activated=Intermediate(
            "The activation decides which hidden units fire for which token.",
            ("token", "unit"),
            "A = activation(H)",
            ("hidden",),
        ),
        output=Intermediate(
            "The units that fire write their vectors, weighted, into the update of the stream.",
            ("token", "width"),
            "inner_norm(A) W_down{down:+ b_down}",
            ("activated",),
        ),
    )
    capabilities = Capabilities(shards={"up": "columns", "activation": "between", "down": "rows"})

    def __init__(
        self,
        site: Site,
        *,
        hidden: Positive | None = None,
        activation: SitelessFactory[Activation] = ReLU,
        bias: bool | tuple[Projection, ...] = True,
        groups: Mapping[str, Positive] | None = None,
        inner_norm: Factory[Norm] | None = None,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        hidden = hidden or 4 * site.dim
        biased = ("up", "down") if bias is True else bias or ()
        if unknown := set(groups or {}) - {"up", "down"}:
            raise ValueError(f"groups has {min(unknown)!r}, but the projections are up, down")
        self.groups = {name: count for name, count in (groups or {}).items() if count > 1}
        self.up = Linear(site, site.dim, hidden, bias="up" in biased, groups=self.groups.get("up", 1))
        self.activation = activation()
        self.inner_norm = self.norm_between(inner_norm, hidden)
        self.dropout = nn.Dropout(dropout)
        self.down = Linear(site, hidden, site.dim, bias="down" in biased, groups=self.groups.get("down", 1))

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        if self.groups:
            return {}  # units and groups do not grow together
        return self.between(self.up.out_features, ("up",), ("down",), self.inner_norm)

    def shards(self) -> Mapping[str, Cut]:
        """Nothing with a norm: each process would normalise over its own channels only."""
        return {} if self.inner_norm is not None or self.groups else super().shards()

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        hidden = self.up(x, offsets)
        y = self.activation(hidden)
        self.record(hidden=hidden, activated=y)
        y = y if self.inner_norm is None else self.inner_norm(y)
        return self.down(self.dropout(y), offsets)
