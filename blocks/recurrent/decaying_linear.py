"""Linear attention with a fixed decay per head."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from blocks.activations.pointwise import Sigmoid, SiLU
from blocks.base import Activation, Axis, Context, Factory, Linear, Mixer, Norm, Site, SitelessFactory, described
from blocks.base.precision import at_least_float32, without_autocast
from blocks.norms.rms import RMSNorm
from blocks.recurrent.additive import additive_rule, additive_rule_flops
from blocks.recurrent.base import RecurrentState, rows_of
from blocks.recurrent.state_steps import RECURRENT, state_by
from registry import Capabilities, Positive, register

MOST_HEADS = 2**16


@register("decaying_linear")
class DecayingLinear(Mixer):
    """Linear attention in which each head forgets at a fixed rate, normalised and gated instead of divided by a sum.

    M_t = exp(-r) M_(t-1) + k_t v_t^T and y_t = M_t^T q_t, with activated q, k and v; the result is
    out(norm(y) * gate(x)). Of H heads, head h has the rate r = 2^(-8h / H), h from 1 to H. The state has a fixed size.

    Args:
        heads: number of heads.
        head_dim: width of each head; null: dim / heads.
        activation: activation of queries, keys and values.
        norm: norm of the outputs.
        norm_over: normalise all heads together (projection), or each head (head) with shared weights.
        gate: activation of the gate.
        by_layer: layer l of L, from 0, has the rates times 1 - l / (L - 1), so that the last one hardly forgets.
    """

    paper = "Qin et al., 2024, arXiv:2401.04658; fixed decays: Sun et al., 2023, arXiv:2307.08621"
    formula = "M_t = e^(-r) M_(t-1) + k_t v_t^T; y_t = out(norm(M_t^T q_t) ⊙ gate_activation(gate(x_t)))"
    outputs = ("out",)
    intermediates = described(**RECURRENT, memory=state_by("M_t = a M_(t-1) + k_t v_t^T"))
    capabilities = Capabilities(places=frozenset({"causal"}), prefix=False, ordered=True)

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        head_dim: Positive | None = None,
        activation: SitelessFactory[Activation] = SiLU,
        norm: Factory[Norm] = RMSNorm,
        norm_over: Literal["projection", "head"] = "projection",
        gate: SitelessFactory[Activation] = Sigmoid,
        by_layer: bool = True,
    ) -> None:
        super().__init__(site)
        if heads > MOST_HEADS:
            raise ValueError(f"heads={heads} is above {MOST_HEADS}, the most that are supported")
        self.heads, self.head_dim = heads, head_dim or site.head_dim(heads)
        self.per_head = norm_over == "head"
        # 1e-5 as published: one layer alone divides by it, and the last layer's rates are not 0
        slower = 1 - site.layer / (site.depth - 1 + 1e-5) + 1e-5 if by_layer else 1.0
        self.rates = [2 ** (-8 * (head + 1) / heads) * slower for head in range(heads)]
        inner = heads * self.head_dim
        self.q = Linear(site, site.dim, inner, bias=False)
        self.k = Linear(site, site.dim, inner, bias=False)
        self.v = Linear(site, site.dim, inner, bias=False)
        self.activation = activation()
        self.gate = Linear(site, site.dim, inner, bias=False)
        self.gate_activation = gate()
        self.norm = norm(site.resized(self.head_dim if self.per_head else inner))
        self.out = Linear(site, inner, site.dim, bias=False)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {f"{name}.weight": (None, None) for name in ("q", "k", "v", "gate", "out")}

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        rows_of(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows, state = rows_of(context), context.state("mixer", RecurrentState)
        arranged = rows.arrange(x)
        shape = (*x.shape[:2], self.heads, self.head_dim)
        q, k, v = (
            at_least_float32(self.activation(part(arranged)).view(shape)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )  # (B, H, T, K)
        rates = torch.tensor(self.rates, dtype=q.dtype, device=x.device)
        logs = -rates[None, :, None].expand(1, -1, x.shape[1])
        tokens = rows.tokens(x.shape[1])
        if tokens is not None:
            k, logs = k * tokens[:, None, :, None], logs * tokens[:, None]
        with without_autocast(x):
            y, memory = additive_rule(q, k, v, rows.documents, None if state is None else state.memory, logs=logs)
        self.record(q=q, k=k, v=v, read=y)
        if state is not None:
            state.memory = memory
        y = rows.restore(y.transpose(1, 2)).to(x.dtype)  # (B, T, H, K)
        y = self.norm(y).flatten(2) if self.per_head else self.norm(y.flatten(2))
        return self.out(y * self.gate_activation(self.gate(x)))

    def flops_per_token(self, length: int) -> float:
        rule = additive_rule_flops(length, self.head_dim, self.head_dim)
        return super().flops_per_token(length) + self.heads * rule

    @property
    def cached_per_sequence(self) -> int:
        return self.heads * self.head_dim * self.head_dim
