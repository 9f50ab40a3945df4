"""State-space mixing with several states and decays per channel."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.activations.pointwise import SiLU, softplus
from blocks.base import Activation, Axis, Context, Factory, Fixed, Linear, Mixer, Norm, Site, SitelessFactory, described
from blocks.base.precision import at_least_float32, without_autocast
from blocks.recurrent.base import RecurrentState, Rows, rows_of
from blocks.recurrent.convolution import short_convolution
from blocks.recurrent.selective import selective_flops, selective_recurrence
from blocks.recurrent.state_steps import CHANNEL_STATES, CHANNELS
from registry import Capabilities, Positive, register

MOST_CHANNELS = 2**16


@register("selective_scan")
class SelectiveScan(Mixer):
    """A selective state space (S6): each channel has several states, whose decay, input and output depend on the token.

    h_t = exp(-d_t exp(log_rate)) * h_(t-1) + d_t v_t k_t and y_t = h_t q_t + skip * v_t for each channel, with v after
    a short convolution, and k, q and d = softplus(step(step_down(v)) + step_bias) from v (in the paper x, B, C, delta).
    The result is out(y * silu(gate(x))). The state has a fixed size.

    Args:
        channels: number of channels; null: 2 * dim.
        state_dim: number of states per channel, the width of k and q.
        step_rank: width between step_down and step; null: dim / 16, rounded up.
        kernel: width of the convolution, in tokens, including the token itself.
        activation: activation after the convolution.
        norm: norm of step_down(v), k and q, each with its own weights; null: none.
        bias: use biases in the projections gate, v and out.
        convolution_bias: use a bias in the convolution.
    """

    paper = "Gu & Dao, 2023, arXiv:2312.00752; norms: Lieber et al., 2024, arXiv:2403.19887"
    formula = (
        "h_t = exp(-d_t exp(log_rate)) ⊙ h_(t-1) + d_t v_t k_t^T; y_t = out((h_t q_t + skip ⊙ v_t) ⊙ silu(gate(x_t)))"
    )
    outputs = ("out",)
    intermediates = described(**CHANNELS, memory=CHANNEL_STATES)
    capabilities = Capabilities(places=frozenset({"causal"}), prefix=False, ordered=True)

    def __init__(
        self,
        site: Site,
        *,
        channels: Positive | None = None,
        state_dim: Positive = 16,
        step_rank: Positive | None = None,
        kernel: Positive = 4,
        activation: SitelessFactory[Activation] = SiLU,
        norm: Factory[Norm] | None = None,
        bias: bool = False,
        convolution_bias: bool = True,
    ) -> None:
        super().__init__(site)
        self.channels, self.state_dim = channels or 2 * site.dim, state_dim
        self.step_rank = step_rank or -(-site.dim // 16)
        if max(self.channels, state_dim) > MOST_CHANNELS:  # each has constants of its own
            raise ValueError(
                f"channels={channels} or state_dim={state_dim} is above {MOST_CHANNELS}, the most supported"
            )
        self.gate = Linear(site, site.dim, self.channels, bias=bias)
        self.v = Linear(site, site.dim, self.channels, bias=bias)
        self.convolution = nn.Parameter(torch.zeros(self.channels, kernel))
        self.convolution_bias = nn.Parameter(torch.zeros(self.channels)) if convolution_bias else None
        self.activation = activation()
        self.step_down = Linear(site, self.channels, self.step_rank, bias=False)
        self.k = Linear(site, self.channels, state_dim, bias=False)
        self.q = Linear(site, self.channels, state_dim, bias=False)
        self.step_norm = norm(site.resized(self.step_rank)) if norm else None
        self.k_norm = norm(site.resized(state_dim)) if norm else None
        self.q_norm = norm(site.resized(state_dim)) if norm else None
        self.step = Linear(site, self.step_rank, self.channels, bias=False)
        self.step_bias = nn.Parameter(torch.zeros(self.channels))
        self.log_rate = nn.Parameter(torch.zeros(self.channels, state_dim))
        self.skip = nn.Parameter(torch.ones(self.channels))
        self.out = Linear(site, self.channels, site.dim, bias=bias)

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        """The convolution starts as the identity, the rates as 1 to K, and the steps range from 0.001 to 0.1."""
        steps = [10 ** (-3 + 2 * channel / max(1, self.channels - 1)) for channel in range(self.channels)]
        return {
            "convolution": [0.0] * (self.convolution.shape[1] - 1) + [1.0],
            "convolution_bias": 0.0,
            "step_bias": [math.log(math.expm1(step)) for step in steps],  # the inverse of softplus
            "log_rate": [math.log(state + 1) for state in range(self.state_dim)],
            "skip": 1.0,
        }

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        states = Fixed(self.state_dim)
        return {
            **{f"{name}.weight": (None, None) for name in ("gate", "v", "step_down", "step", "out")},
            **{f"{name}.weight": (states, None) for name in ("k", "q")},
            "convolution": (None, Fixed(self.convolution.shape[1])),
            "log_rate": (None, states),
            **dict.fromkeys(("convolution_bias", "step_bias", "skip"), (None,)),
        }

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        rows_of(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows, state = rows_of(context), context.state("mixer", RecurrentState)
        v = short_convolution(self.v(rows.arrange(x)), self.convolution, rows, state)
        if self.convolution_bias is not None:
            v = v + self.convolution_bias
        v = self.activation(v)
        steps, k, q = self._selected(v, rows)
        v, rates = at_least_float32(v), at_least_float32(self.log_rate).exp()
        with without_autocast(x):
            memory = None if state is None else state.memory
            if memory is None:
                memory = v.new_zeros(v.shape[0], self.channels, self.state_dim)
            y, memory = selective_recurrence(v, steps, rates, k, q, _begins(rows), memory)
            y = y + self.skip * v
        self.record(convolved=v, steps=steps, write=k, read_by=q, read=y)
        if state is not None:
            state.memory = memory
        return self.out(rows.restore(y).to(x.dtype) * F.silu(self.gate(x)))

    def _selected(self, v: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """The steps d (B, T, D), 0 for padding, and k and q (B, T, K)."""
        down, k, q = self.step_down(v), self.k(v), self.q(v)
        if self.step_norm is not None and self.k_norm is not None and self.q_norm is not None:
            down, k, q = self.step_norm(down), self.k_norm(k), self.q_norm(q)
        steps = softplus(at_least_float32(self.step(down)) + self.step_bias)
        tokens = rows.tokens(v.shape[1])
        return (steps if tokens is None else steps * tokens[..., None]), at_least_float32(k), at_least_float32(q)

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + selective_flops(self.channels, self.state_dim)

    @property
    def cached_per_sequence(self) -> int:
        return self.channels * (self.state_dim + self.convolution.shape[1] - 1)


def _begins(rows: Rows) -> Tensor | None:
    """(B, T) bool, True where a document begins, except for the first of a row; None: one document."""
    if rows.documents is None:
        return None
    return F.pad(rows.documents[:, 1:] != rows.documents[:, :-1], (1, 0))[:, : rows.documents.shape[1]]
