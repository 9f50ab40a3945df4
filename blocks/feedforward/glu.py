"""The gated feed-forward."""

from collections.abc import Mapping
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor, nn

from blocks.activations.pointwise import SiLU
from blocks.base import Activation, Axis, Expert, Factory, Intermediate, Linear, Norm, Site, SitelessFactory, described
from blocks.base.precision import at_least_float32
from registry import Capabilities, Cut, Positive, PositiveFloat, Probability, register

Projection = Literal["gate", "up", "down"]


@register("glu")
class GLU(Expert):
    """down(activation(gate(x)) * up(x)): SwiGLU with silu, GEGLU with gelu, the original GLU with sigmoid.

    Args:
        hidden: width of gate and up; null: 8/3 * dim, rounded up to a multiple of 8, for as many parameters as an mlp
            with hidden = 4 * dim.
        activation: non-linearity on the gate.
        bias: biases in all projections, or a list of the projections that have one, out of gate, up, down.
        limit: clamp gate(x) to at most this and up(x) to [-limit, limit]; null: disabled.
        up_offset: added to up(x), after clamping.
        inner_norm: norm of the hidden channels before down, without weights in experts; null: disabled.
        gate_scale: constant factor on gate(x), before clamping; null: disabled.
        gate_sparsity: share of the gates of each token to cut off: the quantile of a normal distribution with their
            mean and deviation is subtracted, before clamping, and what is negative becomes 0; 0: disabled.
        dropout: probability of zeroing a hidden channel during training.
    """

    paper = (
        "Shazeer, 2020, arXiv:2002.05202; limit and offset: OpenAI, 2025, arXiv:2508.10925; "
        "inner norm: Wang et al., 2022, arXiv:2210.06423; sparsity: You et al., 2025, arXiv:2506.06644"
    )
    formula = "y = down(activation(gate(x)) ⊙ up(x))"
    outputs = ("down",)
    intermediates = described(
        gate_input=Intermediate(
            "The gate of each hidden unit, before the activation.",
            ("token", "unit"),
            "G = limit(gate_sparsity({gate_scale:*}{gate_sum}))",
            ("input",),
        ),
        hidden=Intermediate(
            "What each hidden unit passes on where its gate is open.",
            ("token", "unit"),
            "H = limit(X W_up{up:+ b_up}){up_offset:+}",
            ("input",),
        ),
        activated=Intermediate(
            "The gate decides which hidden units fire for which token.",
            ("token", "unit"),
            "A = activation(G) * H",
            ("gate_input", "hidden"),
        ),
        output=Intermediate(
            "The units that fire write their vectors, weighted, into the update of the stream.",
            ("token", "width"),
            "inner_norm(A) W_down{down:+ b_down}",
            ("activated",),
        ),
    )
    capabilities = Capabilities(shards={"gate": "columns", "up": "columns", "activation": "between", "down": "rows"})

    def __init__(
        self,
        site: Site,
        *,
        hidden: Positive | None = None,
        activation: SitelessFactory[Activation] = SiLU,
        bias: bool | tuple[Projection, ...] = False,
        limit: PositiveFloat | None = None,
        up_offset: float = 0.0,
        inner_norm: Factory[Norm] | None = None,
        gate_scale: PositiveFloat | None = None,
        gate_sparsity: Probability = 0.0,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        hidden = hidden or 8 * -(-site.dim // 3)
        biased = ("gate", "up", "down") if bias is True else bias or ()
        self.gate = Linear(site, site.dim, hidden, bias="gate" in biased)
        self.up = Linear(site, site.dim, hidden, bias="up" in biased)
        self.activation, self.limit, self.up_offset = activation(), limit, up_offset
        self.inner_norm = self.norm_between(inner_norm, hidden)
        self.gate_scale, self.gate_sparsity = gate_scale, gate_sparsity or None
        self.dropout = nn.Dropout(dropout)
        self.down = Linear(site, hidden, site.dim, bias="down" in biased)

    @property
    def gate_sum(self) -> str:
        """The projection to the gate, in the formula: in brackets where the scale multiplies a bias too."""
        if self.gate.bias is None:
            return "X W_gate"
        return "X W_gate + b_gate" if self.gate_scale in (None, 1) else "(X W_gate + b_gate)"

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return self.between(self.up.out_features, ("gate", "up"), ("down",), self.inner_norm)

    def shards(self) -> Mapping[str, Cut]:
        """Nothing with a norm or sparsity: each process would know the mean of its own channels only."""
        return {} if self.inner_norm is not None or self.gate_sparsity else super().shards()

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        gate, up = self.gate(x, offsets), self.up(x, offsets)
        if self.gate_scale is not None:
            gate = gate * self.gate_scale
        if self.gate_sparsity is not None:
            gate = _above_quantile(gate, self.gate_sparsity)
        if self.limit is not None:
            gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        if self.up_offset:
            up = up + self.up_offset
        self.record(gate_input=gate, hidden=up)
        y = self.activation(gate) * up
        self.record(activated=y)
        y = y if self.inner_norm is None else self.inner_norm(y)
        return self.down(self.dropout(y), offsets)


def _above_quantile(x: Tensor, share: float) -> Tensor:
    """max(0, x - q), where q is a quantile of a normal distribution with the mean and deviation of the last axis."""
    if x.numel() == 0:
        return x
    wide = at_least_float32(x)
    deviation, mean = torch.std_mean(wide, dim=-1, correction=0, keepdim=True)
    return torch.relu(wide - mean - NormalDist().inv_cdf(share) * deviation).to(x.dtype)
