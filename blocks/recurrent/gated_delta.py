"""Gated DeltaNet."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.activations.pointwise import SiLU, softplus
from blocks.base import Activation, Axis, Context, Factory, Fixed, Linear, Mixer, Norm, Site, SitelessFactory
from blocks.norms.rms import RMSNorm
from blocks.recurrent.base import RecurrentState, Rows, at_least_float32, rows_of, without_autocast
from blocks.recurrent.convolution import short_convolution
from blocks.recurrent.delta_rule import delta_rule_flops, gated_delta_rule
from registry import Capabilities, Positive, register

MOST_HEADS = 2**16


@register("gated_delta")
class GatedDelta(Mixer):
    """Linear attention with a decaying memory per head, updated by the delta rule.

    M_t = a_t M_(t-1) + k_t (b_t (v_t - a_t M_(t-1)^T k_t))^T and y_t = M_t^T q_t, with q, k and v after a short
    convolution, q and k of unit length, b = sigmoid(beta(x)), a = exp(-exp(log_rate) * softplus(step(x) + step_bias));
    the result is out(norm(y) * silu(gate(x))). The state has a fixed size.

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
        negative_eigenvalues: b = 2 sigmoid(beta(x)), so that eigenvalues of the state transition may be negative.
    """

    paper = "Yang et al., 2024, arXiv:2412.06464"
    outputs = ("out",)
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
        negative_eigenvalues: bool = False,
    ) -> None:
        super().__init__(site)
        self.heads, self.value_heads = heads, value_heads or heads
        if self.value_heads % heads:
            raise ValueError(f"value_heads={value_heads} is not a multiple of heads={heads}; change one of them")
        if self.value_heads > MOST_HEADS:  # each has constants of its own
            raise ValueError(f"value_heads={self.value_heads} is above {MOST_HEADS}, the most that are supported")
        self.head_dim = head_dim or site.head_dim(heads)
        self.value_dim = value_dim or self.head_dim
        keys, values = heads * self.head_dim, self.value_heads * self.value_dim
        self.q = Linear(site, site.dim, keys, bias=False)
        self.k = Linear(site, site.dim, keys, bias=False)
        self.v = Linear(site, site.dim, values, bias=False)
        self.convolution = nn.Parameter(torch.zeros(2 * keys + values, kernel))
        self.activation = activation()
        self.negative_eigenvalues = negative_eigenvalues
        self.beta = Linear(site, site.dim, self.value_heads, bias=False)
        self.step = Linear(site, site.dim, self.value_heads, bias=False)
        self.step_bias = nn.Parameter(torch.zeros(self.value_heads))
        self.log_rate = nn.Parameter(torch.zeros(self.value_heads))
        self.gate = Linear(site, site.dim, values, bias=False)
        self.norm = norm(site.resized(self.value_dim))
        self.out = Linear(site, values, site.dim, bias=False)

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        """The convolution starts as the identity, and the heads' time constants range from 1 to 1000 tokens."""
        steps = [10 ** (-3 * head / max(1, self.value_heads - 1)) for head in range(self.value_heads)]
        identity = [0.0] * (self.convolution.shape[1] - 1) + [1.0]
        return {
            "convolution": identity,
            "step_bias": [math.log(math.expm1(step)) for step in steps],  # the inverse of softplus
            "log_rate": 0.0,
        }

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Fixed(self.value_heads)
        projections = ("q", "k", "v", "gate", "out")
        return {
            **{f"{name}.weight": (None, None) for name in projections},
            **{f"{name}.weight": (heads, None) for name in ("beta", "step")},
            "convolution": (None, Fixed(self.convolution.shape[1])),
            "step_bias": (heads,),
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
        if state is not None:
            state.memory = memory
        y = self.norm(rows.restore(y.transpose(1, 2)).to(x.dtype))  # (B, T, H, V)
        return self.out((y * F.silu(self.gate(x)).view_as(y)).flatten(2))

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
        """Beta and the logarithm of the decay, (B, H, T); 0 for padding."""
        beta = at_least_float32(self.beta(x)).sigmoid() * (2 if self.negative_eigenvalues else 1)
        step = softplus(at_least_float32(self.step(x)) + self.step_bias)
        logs = -at_least_float32(self.log_rate).exp() * step
        tokens = rows.tokens(x.shape[1])
        if tokens is not None:
            beta, logs = beta * tokens[..., None], logs * tokens[..., None]
        return beta.transpose(1, 2), logs.transpose(1, 2)

    def flops_per_token(self, length: int) -> float:
        rule = delta_rule_flops(length, self.head_dim, self.value_dim)
        return super().flops_per_token(length) + self.value_heads * rule

    @property
    def cached_per_sequence(self) -> int:
        channels, kernel = self.convolution.shape
        return self.value_heads * self.head_dim * self.value_dim + channels * (kernel - 1)


def unit(x: Tensor) -> Tensor:
    """Normalise (..., K) to length 1; 0 stays 0."""
    return x * (x.square().sum(dim=-1, keepdim=True) + 1e-6).rsqrt()
