"""The matrix memory of xLSTM."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.activations.pointwise import Sigmoid
from blocks.base import Activation, Axis, Context, Factory, Fixed, Linear, Mixer, Norm, Site, SitelessFactory
from blocks.base.precision import at_least_float32, without_autocast
from blocks.norms.layer import LayerNorm
from blocks.recurrent.additive import additive_rule, additive_rule_flops
from blocks.recurrent.base import Rows, rows_of
from blocks.recurrent.maximum import StabilisedState, last_token, running_maximum
from registry import Capabilities, Positive, PositiveFloat, register

WEIGHTED = partial(LayerNorm, bias=False)
Projection = Literal["q", "k", "v", "gate", "out"]


@register("mlstm")
class MLSTM(Mixer):
    """A matrix memory per head with an exponential input gate and a sigmoid forget gate.

    C_t = f_t C_(t-1) + i_t k_t v_t^T and n_t = f_t n_(t-1) + i_t k_t, with f = sigmoid(cap(forget(x))) and
    i = exp(cap(input(x))); y_t = C_t^T q_t / max(|n_t q_t|, 1), and the result is out(norm(y) * sigmoid(gate(x))). The
    state has a fixed size; it is stored times exp(-m), with a running maximum m.

    Args:
        heads: number of heads.
        head_dim: width of each head's queries and keys; null: half of ``value_dim``, rounded up.
        value_dim: width of each head's values; null: dim / heads.
        softcap: bound c on the inputs of both gates, as c * tanh(x / c); null: disabled.
        norm: norm of each head's output, with weights of its own.
        gate: activation of the gate.
        bias: biases in all projections, or a list of the projections that have one, out of q, k, v, gate, out.
        eps: added to the divisor max(|n q|, 1), in units of exp(m).
    """

    paper = "Beck et al., 2024, arXiv:2405.04517; Beck et al., 2025, arXiv:2503.13427"
    formula = (
        "C_t = f_t C_(t-1) + i_t k_t v_t^T; n_t = f_t n_(t-1) + i_t k_t; "
        "y_t = out(norm(C_t^T q_t / max(|n_t q_t|, 1)) ⊙ gate_activation(gate(x_t)))"
    )
    outputs = ("out",)
    capabilities = Capabilities(places=frozenset({"causal"}), prefix=False, ordered=True)

    expected_failures: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "mixer/mlstm/causal[value_dim=1]: gradients_reach_every_parameter",
            "mixer/mlstm/causal[value_dim=1]: projections_take_adapters",
            "mixer/mlstm/causal[value_dim=1]: attends_exactly_its_window",
        ),
        "the norm of a head of one channel gives the same for any text",
    )

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 4,
        head_dim: Positive | None = None,
        value_dim: Positive | None = None,
        softcap: PositiveFloat | None = 15.0,
        norm: Factory[Norm] = WEIGHTED,
        gate: SitelessFactory[Activation] = Sigmoid,
        bias: bool | tuple[Projection, ...] = False,
        eps: PositiveFloat = 1e-6,
    ) -> None:
        super().__init__(site)
        self.heads, self.softcap, self.eps = heads, softcap, eps
        self.value_dim = value_dim or site.head_dim(heads)
        self.head_dim = head_dim or -(-self.value_dim // 2)
        biased = ("q", "k", "v", "gate", "out") if bias is True else bias or ()
        keys, values = heads * self.head_dim, heads * self.value_dim
        self.q = Linear(site, site.dim, keys, bias="q" in biased)
        self.k = Linear(site, site.dim, keys, bias="k" in biased)
        self.v = Linear(site, site.dim, values, bias="v" in biased)
        self.input = Linear(site, site.dim, heads, bias=False)
        self.forget = Linear(site, site.dim, heads, bias=False)
        self.input_bias = nn.Parameter(torch.zeros(heads))
        self.forget_bias = nn.Parameter(torch.zeros(heads))
        self.gate = Linear(site, site.dim, values, bias="gate" in biased)
        self.gate_activation = gate()
        self.norm = norm(site.resized(self.value_dim, heads))
        self.out = Linear(site, values, site.dim, bias="out" in biased)

    def constants(self) -> Mapping[str, float | list[float]]:
        """At the start, heads keep 95 % to 99.8 % of their memory at each token and write little."""
        last = max(1, self.heads - 1)
        return {"input_bias": -10.0, "forget_bias": [3.0 + 3.0 * head / last for head in range(self.heads)]}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Fixed(self.heads)
        return {
            **{f"{name}.weight": (None, None) for name in ("q", "k", "v", "gate", "out")},
            **dict.fromkeys(("input.weight", "forget.weight"), (heads, None)),
            **dict.fromkeys(("input_bias", "forget_bias"), (heads,)),
        }

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        rows_of(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows, state = rows_of(context), context.state("mixer", StabilisedState)
        arranged = rows.arrange(x)
        q, k, v = (self._heads(at_least_float32(linear(arranged))) for linear in (self.q, self.k, self.v))
        opened = self._capped(at_least_float32(self.input(arranged)) + self.input_bias)  # (B, T, H)
        kept = F.logsigmoid(self._capped(at_least_float32(self.forget(arranged)) + self.forget_bias))
        with without_autocast(x):
            y = self._read(q, k, v, opened, kept, rows, state)
        y = self.norm(rows.restore(y.transpose(1, 2)).to(x.dtype))  # (B, T, H, V)
        gate = self.gate_activation(self.gate(x))
        return self.out((y * gate.view_as(y)).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)  # (B, H, T, K)

    def _capped(self, x: Tensor) -> Tensor:
        return x if self.softcap is None else self.softcap * torch.tanh(x / self.softcap)

    def _read(
        self, q: Tensor, k: Tensor, v: Tensor, opened: Tensor, kept: Tensor, rows: Rows, state: StabilisedState | None
    ) -> Tensor:
        """(B, H, T, V): numerators and divisors times exp(-m), so that nothing overflows, and their quotient."""
        maximum = None if state is None else state.maximum
        before = opened.new_zeros(opened.shape[0], self.heads) if maximum is None else maximum
        exact, m_before = running_maximum(opened, -kept, rows, before, 0.0)
        m, m_before = exact.detach(), m_before.detach()  # which cancels, but for eps
        logs, write = kept + m_before - m, (opened - m).exp()
        tokens = rows.tokens(opened.shape[1])
        if tokens is not None:  # padding neither decays nor writes
            logs, write = logs.masked_fill(~tokens[..., None], 0.0), write * tokens[..., None]
        k = k * write.transpose(1, 2)[..., None] * self.head_dim**-0.5
        memory = None if state is None else state.memory
        y, memory = additive_rule(q, k, F.pad(v, (0, 1), value=1.0), rows.documents, memory, logs=logs.transpose(1, 2))
        if state is not None:
            state.memory, state.maximum = memory, last_token(m, rows, before)
        least = (-m).exp().transpose(1, 2)[..., None]
        eps = self.eps * (exact - m).exp().transpose(1, 2)[..., None]  # eps itself, with the gradient of m
        return y[..., :-1] / (torch.maximum(y[..., -1:].abs(), least) + eps)

    def flops_per_token(self, length: int) -> float:
        read = additive_rule_flops(length, self.head_dim, self.value_dim + 1)
        return super().flops_per_token(length) + self.heads * read

    @property
    def cached_per_sequence(self) -> int:
        return self.heads * (self.head_dim * (self.value_dim + 1) + 1)
