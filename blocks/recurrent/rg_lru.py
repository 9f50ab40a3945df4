"""Gated linear recurrences of single channels."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from blocks.activations.pointwise import GELUTanh, softplus
from blocks.base import Activation, Axis, Context, Fixed, Linear, Mixer, Site, SitelessFactory
from blocks.base.precision import at_least_float32, without_autocast
from blocks.recurrent.base import RecurrentState, Rows, rows_of
from blocks.recurrent.convolution import short_convolution
from blocks.recurrent.scan import linear_scan
from blocks.recurrent.state_steps import CHANNELS
from registry import Capabilities, Positive, PositiveFloat, register

MOST_CHANNELS = 2**16
Projection = Literal["gate", "v", "out"]


@register("rg_lru")
class RealGatedLinearRecurrence(Mixer):
    """A gated linear recurrence of every channel by itself (RG-LRU), beside a gate.

    h_t = a_t * h_(t-1) + sqrt(1 - a_t^2) * sigmoid(input_gate(v_t)) * v_t for each channel, with v after a short
    convolution and a = exp(-power * softplus(rate) * sigmoid(decay_gate(v))). The first token of a document is written
    without the square root. The result is out(h * activation(gate(x))). The state has a fixed size.

    Args:
        channels: number of channels; null: dim.
        heads: number of equal parts of the channels, each with its own matrices for input_gate and decay_gate.
        kernel: width of the convolution, in tokens, including the token itself.
        activation: activation of the gate.
        power: how much stronger than softplus(rate) the decay of an open gate is, c in the paper.
        bias: biases in all projections, or a list of the projections that have one, out of gate, v, out.
        convolution_bias: use a bias in the convolution.
    """

    paper = "De et al., 2024, arXiv:2402.19427"
    formula = (
        "h_t = a_t ⊙ h_(t-1) + sqrt(1 - a_t^2) ⊙ sigmoid(input_gate(v_t)) ⊙ v_t; y_t = out(h_t ⊙ activation(gate(x_t)))"
    )
    outputs = ("out",)
    intermediates = CHANNELS
    capabilities = Capabilities(places=frozenset({"causal"}), prefix=False, ordered=True)

    def __init__(
        self,
        site: Site,
        *,
        channels: Positive | None = None,
        heads: Positive = 8,
        kernel: Positive = 4,
        activation: SitelessFactory[Activation] = GELUTanh,
        power: PositiveFloat = 8.0,
        bias: bool | tuple[Projection, ...] = True,
        convolution_bias: bool = True,
    ) -> None:
        super().__init__(site)
        self.channels, self.heads, self.power = channels or site.dim, heads, power
        if self.channels % heads:
            raise ValueError(f"channels={self.channels} is not a multiple of heads={heads}; change one of them")
        if self.channels > MOST_CHANNELS:  # each has constants of its own
            raise ValueError(f"channels={self.channels} is above {MOST_CHANNELS}, the most that are supported")
        biased, part = get_args(Projection) if bias is True else bias or (), self.channels // heads
        self.gate = Linear(site, site.dim, self.channels, bias="gate" in biased)
        self.v = Linear(site, site.dim, self.channels, bias="v" in biased)
        self.convolution = nn.Parameter(torch.zeros(self.channels, kernel))
        self.convolution_bias = nn.Parameter(torch.zeros(self.channels)) if convolution_bias else None
        self.input_gate_weight = nn.Parameter(torch.zeros(heads, part, part))
        self.input_gate_bias = nn.Parameter(torch.zeros(heads, part))
        self.decay_gate_weight = nn.Parameter(torch.zeros(heads, part, part))
        self.decay_gate_bias = nn.Parameter(torch.zeros(heads, part))
        self.rate = nn.Parameter(torch.zeros(self.channels))
        self.activation = activation()
        self.out = Linear(site, self.channels, site.dim, bias="out" in biased)

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        """The convolution starts as the identity, and 1 - exp(-softplus(rate)) ranges from 0.1 to 0.001."""
        spans = [10 ** (-1 - 2 * channel / max(1, self.channels - 1)) for channel in range(self.channels)]
        return {
            "convolution": [0.0] * (self.convolution.shape[1] - 1) + [1.0],
            "convolution_bias": 0.0,
            "input_gate_bias": 0.0,
            "decay_gate_bias": 0.0,
            "rate": [math.log(math.expm1(-math.log1p(-span))) for span in spans],  # the inverse of softplus
        }

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Fixed(self.heads)
        return {
            **{f"{name}.weight": (None, None) for name in ("gate", "v", "out")},
            "convolution": (None, Fixed(self.convolution.shape[1])),
            **dict.fromkeys(("input_gate_weight", "decay_gate_weight"), (heads, None, None)),
            **dict.fromkeys(("input_gate_bias", "decay_gate_bias"), (heads, None)),
            **dict.fromkeys(("convolution_bias", "rate"), (None,)),
        }

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        rows_of(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows, state = rows_of(context), context.state("mixer", RecurrentState)
        v = short_convolution(self.v(rows.arrange(x)), self.convolution, rows, state)
        if self.convolution_bias is not None:
            v = v + self.convolution_bias
        opened = self._by_head(v, self.input_gate_weight, self.input_gate_bias).sigmoid()
        decaying = self._by_head(v, self.decay_gate_weight, self.decay_gate_bias).sigmoid()
        logs = -self.power * softplus(at_least_float32(self.rate)) * at_least_float32(decaying)
        begins = _begins(context, rows, v.shape[:2])[..., None]
        scale = (-torch.expm1(2 * logs)).clamp(min=1e-12).sqrt().masked_fill(begins, 1.0)
        decay, write = logs.exp().masked_fill(begins, 0.0), at_least_float32(v * opened) * scale
        tokens = rows.tokens(v.shape[1])
        if tokens is not None:  # padding neither decays nor writes
            decay, write = decay.masked_fill(~tokens[..., None], 1.0), write * tokens[..., None]
        with without_autocast(x):
            before = write.new_zeros(write.shape[0], self.channels) if state is None else state.memory
            before = write.new_zeros(write.shape[0], self.channels) if before is None else before
            h = linear_scan(decay, write, before)
        self.record(convolved=v, written=write, decays=decay, states=h)
        if state is not None:
            state.memory = h[:, -1].clone() if h.shape[1] else before
        return self.out(rows.restore(h).to(x.dtype) * self.activation(self.gate(x)))

    def _by_head(self, v: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Multiply each head's part of (B, T, D) by a matrix of its own (H, out, in)."""
        parts = v.reshape(-1, self.heads, self.channels // self.heads).transpose(0, 1)  # (H, B * T, D / H)
        y = (parts @ weight.transpose(1, 2)).transpose(0, 1) + bias
        return y.reshape(v.shape)

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 4 * self.channels * self.channels // self.heads

    @property
    def cached_per_sequence(self) -> int:
        return self.channels * self.convolution.shape[1]


def _begins(context: Context, rows: Rows, shape: Sequence[int]) -> Tensor:
    """(B, T) bool, True for the first token of each document, in the order of ``rows``."""
    batch, length = shape
    mask, offset = context.attention_mask, context.offset
    if mask is not None:  # rows may have had nothing but padding so far
        first = ~mask[:, :offset].any(dim=1)
    else:
        first = torch.full((batch,), offset == 0, device=context.positions.device)
    inside = first.new_zeros(batch, max(0, length - 1))
    if rows.documents is not None:
        inside = rows.documents[:, 1:] != rows.documents[:, :-1]
    return torch.cat([first[:, None], inside], dim=1)[:, :length]
