"""Gated DeltaNet."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from blocks.activations.pointwise import SiLU, softplus
from blocks.base import Activation, Axis, Context, Factory, Fixed, Linear, Mixer, Norm, Site, SitelessFactory, described
from blocks.base.precision import at_least_float32, without_autocast
from blocks.norms.rms import RMSNorm
from blocks.recurrent.base import RecurrentState, Rows, rows_of
from blocks.recurrent.convolution import short_convolution
from blocks.recurrent.delta_rule import delta_rule_flops, gated_delta_rule
from blocks.recurrent.state_steps import RECURRENT, state_by
from registry import Capabilities, Positive, PositiveFloat, register

MOST_DECAYS = 2**16


@register("gated_delta")
class GatedDelta(Mixer):
    """Linear attention with a decaying memory per head, updated by the delta rule.

    M_t = a_t M_(t-1) + k_t (b_t (v_t - a_t M_(t-1)^T k_t))^T and y_t = M_t^T q_t, with q, k and v after a short
    convolution, q and k of unit length, b = sigmoid(beta(x)), a = exp(-exp(log_rate) * softplus(step(x) + step_bias));
    the result is out(norm(y) * silu(gate(x))). The state has a fixed size. With ``decay: channel``, a_t is a diagonal
    matrix: each key channel decays by itself.

    Along k_t, the state is multiplied by a_t (1 - b_t). With b below 1 that is positive; a state that changes its sign,
    as parity needs, takes b = 2 sigmoid(beta(x)) (Grazzi et al., 2024, arXiv:2411.12537).

    Args:
        heads: number of query and key heads.
        value_heads: number of value heads, each with its own memory, a multiple of ``heads``; null: equal to ``heads``.
        head_dim: width of each query and key head; null: dim / heads.
        value_dim: width of each value head; null: ``head_dim``.
        kernel: width of the convolution, in tokens, including the token itself.
        activation: activation after the convolution.
        norm: norm of each head's output, before the gate.
        gate: activation of the gate.
        gate_rank: rank of the gate's projection, which is then a product of two; null: full.
        negative_eigenvalues: b = 2 sigmoid(beta(x)), so that eigenvalues of the state transition may be negative.
        decay: each value head has one decay (head), or one for each key channel (channel).
        decay_rank: rank of the projection to the decays (step), which is then a product of two; null: full.
        decay_limit: largest -log(a), by -log(a) = decay_limit * sigmoid(exp(log_rate) * (step(x) + step_bias)); null:
            unlimited.
    """

    paper = "Yang et al., 2024, arXiv:2412.06464; decay of each channel: Kimi Team, 2025, arXiv:2510.26692"
    formula = (
        "M_t = a_t M_(t-1) + k_t (b_t (v_t - a_t M_(t-1)^T k_t))^T; "
        "y_t = out(norm(M_t^T q_t) ⊙ gate_activation(gate(x_t)))"
    )
    outputs = ("out",)
    intermediates = described(**RECURRENT, memory=state_by("M_t = a_t M_(t-1) + k_t (b_t (v_t - a_t M_(t-1)^T k_t))^T"))
    capabilities = Capabilities(places=frozenset({"causal"}), prefix=False, ordered=True)

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        value_heads: Positive | None = None,
        head_dim: Positive | None = None,
        value_dim: Positive | None = None,
        kernel: Positive = 4,
        activation: SitelessFactory[Activation] = SiLU,
        norm: Factory[Norm] = RMSNorm,
        gate: SitelessFactory[Activation] = SiLU,
        gate_rank: Positive | None = None,
        negative_eigenvalues: bool = False,
        decay: Literal["head", "channel"] = "head",
        decay_rank: Positive | None = None,
        decay_limit: PositiveFloat | None = None,
    ) -> None:
        super().__init__(site)
        self.heads, self.value_heads = heads, value_heads or heads
        if self.value_heads % heads:
            raise ValueError(f"value_heads={value_heads} is not a multiple of heads={heads}; change one of them")
        self.head_dim = head_dim or site.head_dim(heads)
        self.value_dim = value_dim or self.head_dim
        self.per_channel, self.decay_limit = decay == "channel", decay_limit
        steps = self.value_heads * (self.head_dim if self.per_channel else 1)
        if steps > MOST_DECAYS:  # each has a constant of its own
            raise ValueError(
                f"value_heads={self.value_heads} have {steps} decays, above {MOST_DECAYS}, the most supported"
            )
        keys, values = heads * self.head_dim, self.value_heads * self.value_dim
        self.q = Linear(site, site.dim, keys, bias=False)
        self.k = Linear(site, site.dim, keys, bias=False)
        self.v = Linear(site, site.dim, values, bias=False)
        self.convolution = nn.Parameter(torch.zeros(2 * keys + values, kernel))
        self.activation = activation()
        self.negative_eigenvalues = negative_eigenvalues
        self.beta = Linear(site, site.dim, self.value_heads, bias=False)
        self.step_down = Linear(site, site.dim, decay_rank, bias=False) if decay_rank else None
        self.step = Linear(site, decay_rank or site.dim, steps, bias=False)
        self.step_bias = nn.Parameter(torch.zeros(steps))
        self.log_rate = nn.Parameter(torch.zeros(self.value_heads))
        self.gate_down = Linear(site, site.dim, gate_rank, bias=False) if gate_rank else None
        self.gate = Linear(site, gate_rank or site.dim, values, bias=False)
        self.gate_activation = gate()
        self.norm = norm(site.resized(self.value_dim))
        self.out = Linear(site, values, site.dim, bias=False)

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        """The convolution starts as the identity; time constants of heads or channels range from 1 to 1000 tokens."""
        count = self.head_dim if self.per_channel else self.value_heads
        steps = [10 ** (-3 * index / max(1, count - 1)) for index in range(count)]
        if self.decay_limit is None:
            biases = [math.log(math.expm1(step)) for step in steps]  # the inverse of softplus
        else:
            shares = [min(step / self.decay_limit, 0.5) for step in steps]
            biases = [math.log(share / (1 - share)) for share in shares]  # the inverse of the sigmoid
        identity = [0.0] * (self.convolution.shape[1] - 1) + [1.0]
        return {
            "convolution": identity,
            "step_bias": biases * (self.value_heads if self.per_channel else 1),
            "log_rate": 0.0,
        }

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Fixed(self.value_heads)
        steps = None if self.per_channel else heads
        ranks = {"step": self.step_down, "gate": self.gate_down}
        reads = {name: None if down is None else Fixed(down.out_features) for name, down in ranks.items()}
        return {
            **{f"{name}.weight": (None, None) for name in ("q", "k", "v", "out")},
            **{f"{name}_down.weight": (rank, None) for name, rank in reads.items() if rank is not None},
            "gate.weight": (None, reads["gate"]),
            "beta.weight": (heads, None),
            "step.weight": (steps, reads["step"]),
            "convolution": (None, Fixed(self.convolution.shape[1])),
            "step_bias": (steps,),
            "log_rate": (heads,),
        }

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        rows_of(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows, state = rows_of(context), context.state("mixer", RecurrentState)
        arranged = rows.arrange(x)
        q, k, v = self._heads(arranged, rows, state)
        beta, logs = self._gates(arranged, rows)
        with without_autocast(x):
            y, memory = gated_delta_rule(q, k, v, beta, logs, rows.documents, None if state is None else state.memory)
        self.record(q=q, k=k, v=v, strength=beta, read=y)
        self.record(**({"channel_decay": logs.exp()} if self.per_channel else {"decay": logs.exp()}))
        if state is not None:
            state.memory = memory
        y = self.norm(rows.restore(y.transpose(1, 2)).to(x.dtype))  # (B, T, H, V)
        gate = self.gate_activation(self.gate(x if self.gate_down is None else self.gate_down(x)))
        return self.out((y * gate.view_as(y)).flatten(2))

    def _heads(self, x: Tensor, rows: Rows, state: RecurrentState | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (B, H, T, K) and values (B, H, T, V) of every value head."""
        mixed = torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)
        mixed = at_least_float32(self.activation(short_convolution(mixed, self.convolution, rows, state)))
        keys = self.heads * self.head_dim
        qk = unit(mixed[..., : 2 * keys].view(*x.shape[:2], 2 * self.heads, self.head_dim)).transpose(1, 2)
        v = mixed[..., 2 * keys :].view(*x.shape[:2], self.value_heads, self.value_dim).transpose(1, 2)
        q, k = qk.repeat_interleave(self.value_heads // self.heads, dim=1).chunk(2, dim=1)
        return q * self.head_dim**-0.5, k, v

    def _gates(self, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Beta (B, H, T) and the logarithm of the decay, (B, H, T) or (B, H, T, K); 0 for padding."""
        beta = at_least_float32(self.beta(x)).sigmoid() * (2 if self.negative_eigenvalues else 1)
        step = at_least_float32(self.step(x if self.step_down is None else self.step_down(x))) + self.step_bias
        step = step.view(*x.shape[:2], self.value_heads, len(self.step_bias) // self.value_heads)  # (B, T, H, 1 or K)
        rate = at_least_float32(self.log_rate).exp()[:, None]
        logs = -rate * softplus(step) if self.decay_limit is None else -self.decay_limit * (rate * step).sigmoid()
        tokens = rows.tokens(x.shape[1])
        if tokens is not None:
            beta, logs = beta * tokens[..., None], logs * tokens[..., None, None]
        return beta.transpose(1, 2), (logs if self.per_channel else logs.squeeze(-1)).transpose(1, 2)

    def flops_per_token(self, length: int) -> float:
        rule = delta_rule_flops(length, self.head_dim, self.value_dim, channels=self.per_channel)
        return super().flops_per_token(length) + self.value_heads * rule

    @property
    def cached_per_sequence(self) -> int:
        channels, kernel = self.convolution.shape
        return self.value_heads * self.head_dim * self.value_dim + channels * (kernel - 1)


def unit(x: Tensor) -> Tensor:
    """Normalise (..., K) to length 1; 0 stays 0."""
    return x * (x.square().sum(dim=-1, keepdim=True) + 1e-6).rsqrt()
