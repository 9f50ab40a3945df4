"""Differential attention."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from blocks.attention.backends import BACKENDS, Backend, choose
from blocks.attention.projection import HeadProjection, grouped_axes, groups_of, score_scale
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import score_bias, visibility
from blocks.base import (
    AttentionPositions,
    Axis,
    Context,
    DistanceBias,
    Factory,
    Fixed,
    KeyValues,
    Linear,
    LocalHeads,
    Mixer,
    Norm,
    Site,
)
from blocks.norms.rms import RMSNorm
from blocks.positions.none import NoAttentionPositions
from registry import Capabilities, NonNegativeFloat, Positive, Probability, Runtime, Share, register

NORM = partial(RMSNorm, eps=1e-5)
Projection = Literal["q", "k", "v", "out"]


@register("differential")
class DifferentialAttention(Mixer):
    """Attention by the difference of two softmaxes, in which noise that both see cancels.

    Each head has two queries and two keys: y = (softmax(q1 k1^T * scale) - l softmax(q2 k2^T * scale)) v, with
    l = exp(a1 . b1) - exp(a2 . b2) + initial and trained vectors a and b of all heads; the result is
    out((1 - initial) norm(y)).

    Args:
        heads: number of heads.
        kv_heads: number of heads of keys and values, a divisor of ``heads``; null: equal to ``heads``.
        head_dim: width of each of a head's two queries and keys; null: dim / heads / 2.
        value_dim: width of each head's values; null: 2 * ``head_dim``.
        bias: biases in all projections, or a list of the projections that have one, out of q, k, v, out.
        scale: factor on the scores before the softmax; null: 1 / sqrt(head_dim).
        window: attend only to tokens less than this many tokens away, so that 1 is the token itself; null: disabled.
        initial: factor of the second softmax at the start; null: 0.8 - 0.6 exp(-0.3 l) in layer l, from 0.
        norm: norm of each head's output.
        positions: positions applied to queries and keys, or added to the scores.
        dropout: probability of dropping an attention weight during training.
        backend: implementation; auto: the fastest one that supports the other options. All give equal results.
    """

    paper = "Ye et al., 2024, arXiv:2410.05258"
    formula = (
        "A_h = (softmax(scale * q_1 k_1^T) - lambda * softmax(scale * q_2 k_2^T)) v; "
        "y = out((1 - initial) [norm(A_1), ..., norm(A_H)])"
    )
    outputs = ("out",)
    capabilities = Capabilities(
        places=frozenset({"causal", "bidirectional"}), backends=BACKENDS, positions=frozenset({"rotation", "bias"})
    )

    expected_failures: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            (
                "mixer/differential/causal[window=1]: gradients_reach_every_parameter",
                "mixer/differential/causal[window=1]: projections_take_adapters",
                "mixer/differential/bidirectional[window=1]: gradients_reach_every_parameter",
                "mixer/differential/bidirectional[window=1]: projections_take_adapters",
            ),
            "a single key has the weight 1 whatever its score",
        ),
    }

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 4,
        kv_heads: Positive | None = None,
        head_dim: Positive | None = None,
        value_dim: Positive | None = None,
        bias: bool | tuple[Projection, ...] = False,
        scale: NonNegativeFloat | None = None,
        window: Positive | None = None,
        initial: Share | None = None,
        norm: Factory[Norm] = NORM,
        positions: Factory[AttentionPositions] = NoAttentionPositions,
        dropout: Probability = 0.0,
        backend: Annotated[Backend, Runtime()] = "auto",
    ) -> None:
        super().__init__(site)
        self.heads, self.kv_heads = heads, groups_of(heads, kv_heads)
        self.head_dim = head_dim or site.head_dim(2 * heads)
        self.value_dim = value_dim or 2 * self.head_dim
        self.causal, self.window, self.dropout = site.causal, window, dropout
        self.scale = score_scale(site, scale, self.head_dim, grows=head_dim is None)
        self.attend = choose(backend, softcap=False, dropout=dropout > 0)
        biased = ("q", "k", "v", "out") if bias is True else bias or ()
        self.q = HeadProjection(site, site.dim, heads, 2 * self.head_dim, bias="q" in biased)
        self.k = HeadProjection(site, site.dim, self.kv_heads, 2 * self.head_dim, bias="k" in biased)
        self.v = HeadProjection(site, site.dim, self.kv_heads, self.value_dim, bias="v" in biased)
        self.out = Linear(site, heads * self.value_dim, site.dim, bias="out" in biased)
        self.initial = 0.8 - 0.6 * math.exp(-0.3 * site.layer) if initial is None else initial
        self.a1, self.b1, self.a2, self.b2 = (nn.Parameter(torch.zeros(self.head_dim)) for _ in range(4))
        self.norm = norm(site.resized(self.value_dim))
        self.positions = positions(site.resized(self.head_dim, heads))
        self.local_heads = LocalHeads()

    def deviations(self) -> Mapping[str, float]:
        return dict.fromkeys(("a1", "b1", "a2", "b2"), 0.1)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        vectors = dict.fromkeys(("a1", "b1", "a2", "b2"), (Fixed(self.head_dim),))
        return {**grouped_axes(self.q, self.kv_heads, self.value_dim, None), **vectors}

    def prepare(self, context: Context) -> None:
        cached_window = context.cached_window(self.window)
        visibility(context, causal=self.causal, window=self.window, cached_window=cached_window)
        self.positions.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k = (self.positions.rotate(_stacked(y), context) for y in (self.q(x), self.k(x)))  # (B, 2H, T, K)
        v = self.v(x)  # (B, G, T, V)
        cached_window = context.cached_window(self.window)
        state = context.state("mixer", lambda: KeyValues(cached_window))
        if state is not None:
            pair, v = state.append(torch.cat(k.chunk(2, dim=1), dim=-1), v)  # (B, G, S, 2K), with earlier tokens
            k = _stacked(pair)
        visible = visibility(context, causal=self.causal, window=self.window, cached_window=cached_window)
        bias = score_bias(self.positions, context, cached_window)
        if bias is not None:
            bias = DistanceBias(torch.cat([self.local_heads(bias.values)] * 2, dim=1), bias.reach)
        scoring = Scoring(self.scale, self.dropout if self.training else 0.0, bias=bias)
        first, second = self.attend(q, k, torch.cat([v, v], dim=1), visible, scoring).chunk(2, dim=1)  # (B, H, T, V)
        y = (1 - self.initial) * self.norm(first - self.factor().to(second.dtype) * second)
        return self.out(y.transpose(1, 2).flatten(2))

    def factor(self) -> Tensor:
        """The factor l of the second softmax, ()."""
        wide = torch.promote_types(self.a1.dtype, torch.float32)
        first, second = ((a.to(wide) * b.to(wide)).sum().exp() for a, b in ((self.a1, self.b1), (self.a2, self.b2)))
        return first - second + self.initial

    def flops_per_token(self, length: int) -> float:
        span = min(length, self.window) if self.window else length
        return super().flops_per_token(length) + 4 * self.heads * (self.head_dim + self.value_dim) * span

    @property
    def scored_heads(self) -> int:
        return self.heads

    @property
    def cached_per_token(self) -> int:
        return self.kv_heads * (2 * self.head_dim + self.value_dim)


def _stacked(x: Tensor) -> Tensor:
    """(B, H, T, 2K) -> (B, 2H, T, K): the first halves of all heads, then the second ones."""
    return torch.cat(x.chunk(2, dim=-1), dim=1)
