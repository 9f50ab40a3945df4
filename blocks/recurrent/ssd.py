"""State-space mixing with one decay per head."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.activations.pointwise import SiLU, softplus
from blocks.base import (
    Activation,
    Axis,
    Context,
    Factory,
    Fixed,
    Intermediate,
    Linear,
    Mixer,
    Norm,
    Site,
    SitelessFactory,
    described,
)
from blocks.base.precision import at_least_float32, without_autocast
from blocks.norms.rms import RMSNorm
from blocks.recurrent.base import RecurrentState, Rows, rows_of
from blocks.recurrent.convolution import short_convolution
from blocks.recurrent.state_space_dual import state_space_dual, state_space_dual_flops
from blocks.recurrent.state_steps import RECURRENT, state_by
from registry import Capabilities, NonNegativeFloat, Positive, PositiveFloat, register

MOST_HEADS = 2**16
Projection = Literal["gate", "v", "k", "q", "step", "out"]
MULTIPLIED: tuple[Projection, ...] = ("gate", "v", "k", "q", "step")


@register("ssd")
class StateSpaceDual(Mixer):
    """A selective state space with one decay per head (SSD, state-space duality): linear attention whose memory decays.

    M_t = a_t M_(t-1) + d_t k_t v_t^T and y_t = M_t^T q_t + skip * v_t, with q, k and v (C, B and x in the paper) after
    a short convolution, d = softplus(step(x) + step_bias) and a = exp(-exp(log_rate) d). The result is
    out(norm(y * silu(gate(x)))). The state has a fixed size.

    Args:
        heads: number of value heads, each with its own memory and decay.
        head_dim: width of each value head; null: 2 * dim / heads.
        state_dim: width of queries and keys, the number of states per channel.
        groups: number of groups of heads that share queries and keys.
        kernel: width of the convolution, in tokens, including the token itself.
        activation: activation after the convolution.
        norm: norm of the gated output.
        norm_groups: number of equal parts of the channels that are normalised separately; null: ``groups``.
        gating: the gate multiplies the norm's input (before_norm) or its output (after_norm).
        bias: biases in all projections, or a list of the projections that have one, out of gate, v, k, q, step, out.
        convolution_bias: use a bias in the convolution.
        step_min: lower limit of d.
        step_max: upper limit of d; null: none.
        multipliers: constant factors on the projections gate, v, k, q and step, in this order; null: 1.
    """

    paper = "Dao & Gu, 2024, arXiv:2405.21060"
    formula = (
        "M_t = a_t M_(t-1) + d_t k_t v_t^T; y_t = out(norm(r_t ⊙ silu(gate(x_t)))); r_t = M_t^T q_t + skip ⊙ v_t; "
        '"after_norm:" y_t = out(norm(r_t) ⊙ silu(gate(x_t)))'
    )
    outputs = ("out",)
    intermediates = described(
        **{
            **RECURRENT,
            "strength": replace(RECURRENT["strength"], formula="d_t"),
            "read": replace(RECURRENT["read"], formula="r_t = M_t^T q_t + skip ⊙ v_t"),
        },
        memory=state_by("M_t = a_t M_(t-1) + d_t k_t v_t^T"),
        output=Intermediate(
            "What is read, with norm and gate, as a vector that can be added to the stream.",
            ("token", "width"),
            "y_t = out({gated_read})",
            ("read", "input"),
        ),
    )
    capabilities = Capabilities(places=frozenset({"causal"}), prefix=False, ordered=True)
    expected_failures = dict.fromkeys(
        (
            "mixer/ssd/causal[step_min=2.0]: gradients_reach_every_parameter",
            "mixer/ssd/causal[step_min=2.0]: projections_take_adapters",
        ),
        "the limit is above every step of the tests",
    )

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        head_dim: Positive | None = None,
        state_dim: Positive = 64,
        groups: Positive = 1,
        kernel: Positive = 4,
        activation: SitelessFactory[Activation] = SiLU,
        norm: Factory[Norm] = RMSNorm,
        norm_groups: Positive | None = None,
        gating: Literal["before_norm", "after_norm"] = "before_norm",
        bias: bool | tuple[Projection, ...] = False,
        convolution_bias: bool = True,
        step_min: NonNegativeFloat = 0.0,
        step_max: PositiveFloat | None = None,
        multipliers: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__(site)
        self.heads, self.head_dim = heads, head_dim or 2 * site.head_dim(heads)
        self.state_dim, self.groups, self.norm_groups = state_dim, groups, norm_groups or groups
        inner, keys = heads * self.head_dim, groups * state_dim
        if heads % groups:
            raise ValueError(f"heads={heads} is not a multiple of groups={groups}; change one of them")
        if inner % self.norm_groups:
            raise ValueError(f"norm_groups={self.norm_groups} does not divide {inner} channels; change one of them")
        if heads > MOST_HEADS:  # each has constants of its own
            raise ValueError(f"heads={heads} is above {MOST_HEADS}, the most that are supported")
        if step_max is not None and step_max <= step_min:
            raise ValueError(f"step_max={step_max} is not above step_min={step_min}; change one of them")
        if multipliers is not None and len(multipliers) != len(MULTIPLIED):
            raise ValueError(
                f"multipliers has {len(multipliers)} numbers; give one for each of {', '.join(MULTIPLIED)}"
            )
        self.step_min, self.step_max, self.multipliers = step_min, step_max, multipliers or (1.0,) * len(MULTIPLIED)
        biased = get_args(Projection) if bias is True else bias or ()
        self.gate = Linear(site, site.dim, inner, bias="gate" in biased)
        self.v = Linear(site, site.dim, inner, bias="v" in biased)
        self.k = Linear(site, site.dim, keys, bias="k" in biased)
        self.q = Linear(site, site.dim, keys, bias="q" in biased)
        self.step = Linear(site, site.dim, heads, bias="step" in biased)
        self.convolution = nn.Parameter(torch.zeros(inner, kernel))  # of v
        self.convolution_bias = nn.Parameter(torch.zeros(inner)) if convolution_bias else None
        self.key_convolution = nn.Parameter(torch.zeros(2 * keys, kernel))  # of k and q
        self.key_convolution_bias = nn.Parameter(torch.zeros(2 * keys)) if convolution_bias else None
        self.activation = activation()
        self.step_bias = nn.Parameter(torch.zeros(heads))
        self.log_rate = nn.Parameter(torch.zeros(heads))
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = norm(site.resized(inner // self.norm_groups, self.norm_groups if self.norm_groups > 1 else None))
        self.gating = gating
        self.out = Linear(site, inner, site.dim, bias="out" in biased)

    @property
    def gated_read(self) -> str:
        """What the last projection reads, in the formula of the output."""
        gate = f"silu({Intermediate('', (), '{factor:*}').formula_of(self)}gate(x_t))"
        return f"norm(r_t ⊙ {gate})" if self.gating == "before_norm" else f"norm(r_t) ⊙ {gate}"

    @property
    def factor(self) -> float:
        """Of the gate."""
        return self.multipliers[0]

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        """The convolution starts as the identity, and the heads' time constants range from 1 to 1000 tokens."""
        shares = [head / max(1, self.heads - 1) for head in range(self.heads)]
        steps = [10 ** (-1 - 2 * share) for share in shares]  # 0.1 to 0.001
        identity = [0.0] * (self.convolution.shape[1] - 1) + [1.0]
        return {
            "convolution": identity,
            "convolution_bias": 0.0,
            "key_convolution": identity,
            "key_convolution_bias": 0.0,
            "step_bias": [math.log(math.expm1(step)) for step in steps],  # the inverse of softplus
            "log_rate": [math.log(10.0) * (1 - share) for share in shares],  # rates of 10 to 1
            "skip": 1.0,
        }

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads, keys = Fixed(self.heads), Fixed(self.groups * self.state_dim)
        both, kernel = Fixed(2 * self.groups * self.state_dim), Fixed(self.convolution.shape[1])
        return {
            **{f"{name}.weight": (None, None) for name in ("gate", "v", "out")},
            **{f"{name}.weight": (keys, None) for name in ("k", "q")},
            "step.weight": (heads, None),
            "convolution": (None, kernel),
            "convolution_bias": (None,),
            "key_convolution": (both, kernel),
            "key_convolution_bias": (both,),
            **dict.fromkeys(("step_bias", "log_rate", "skip"), (heads,)),
        }

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        rows_of(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows, state = rows_of(context), context.state("mixer", RecurrentState)
        arranged = rows.arrange(x)
        q, k, v = self._heads(arranged, rows, state)
        steps = self._steps(arranged, rows)  # (B, H, T)
        logs = -at_least_float32(self.log_rate).exp()[:, None] * steps
        with without_autocast(x):
            memory = None if state is None else state.memory
            y, memory = state_space_dual(q, k, v * steps[..., None], logs, rows.documents, memory)
            y = y + self.skip[:, None, None] * v
        self.record(q=q, k=k, v=v, strength=steps, decay=logs.exp(), read=y)
        if state is not None:
            state.memory = memory
        return self.out(self._gated(rows.restore(y.transpose(1, 2)).to(x.dtype).flatten(2), x))

    def _heads(self, x: Tensor, rows: Rows, state: RecurrentState | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (B, G, T, K) of every group and values (B, H, T, V) of every head."""
        _, v, k, q, _ = self.multipliers
        mixed = torch.cat([_times(self.v(x), v), _times(self.k(x), k), _times(self.q(x), q)], dim=-1)
        mixed = short_convolution(mixed, torch.cat([self.convolution, self.key_convolution]), rows, state)
        if self.convolution_bias is not None and self.key_convolution_bias is not None:
            mixed = mixed + torch.cat([self.convolution_bias, self.key_convolution_bias])
        mixed = at_least_float32(self.activation(mixed))
        inner = self.heads * self.head_dim
        values, shared = mixed[..., :inner], mixed[..., inner:].reshape(*x.shape[:2], 2, self.groups, self.state_dim)
        values = values.reshape(*x.shape[:2], self.heads, self.head_dim).transpose(1, 2)
        return shared[:, :, 1].transpose(1, 2), shared[:, :, 0].transpose(1, 2), values

    def _steps(self, x: Tensor, rows: Rows) -> Tensor:
        """d, (B, H, T); 0 for padding, which then neither writes nor decays."""
        steps = softplus(at_least_float32(_times(self.step(x), self.multipliers[4])) + self.step_bias)
        if self.step_min or self.step_max is not None:
            steps = steps.clamp(self.step_min, self.step_max)
        tokens = rows.tokens(x.shape[1])
        return (steps if tokens is None else steps * tokens[..., None]).transpose(1, 2)

    def _gated(self, y: Tensor, x: Tensor) -> Tensor:
        gate = F.silu(_times(self.gate(x), self.multipliers[0]))
        parts = (*y.shape[:2], self.norm_groups, y.shape[-1] // self.norm_groups) if self.norm_groups > 1 else y.shape
        if self.gating == "before_norm":
            return self.norm((y * gate).view(parts)).view_as(y)
        return self.norm(y.view(parts)).view_as(y) * gate

    def flops_per_token(self, length: int) -> float:
        sizes = self.heads, self.groups, self.state_dim, self.head_dim
        return super().flops_per_token(length) + state_space_dual_flops(length, *sizes)

    @property
    def cached_per_sequence(self) -> int:
        channels = self.convolution.shape[0] + self.key_convolution.shape[0]
        return self.heads * self.state_dim * self.head_dim + channels * (self.convolution.shape[1] - 1)


def _times(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor
