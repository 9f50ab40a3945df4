"""Multi-head latent attention."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from blocks.attention.backends import BACKENDS, Backend, choose
from blocks.attention.key_selector import Choice, SelectorFactory
from blocks.attention.projection import GateOver, HeadProjection, projection_axes, score_scale
from blocks.attention.score_steps import LATENT_ATTENTION, record_scores
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility, score_bias, visibility
from blocks.base import (
    Activation,
    AttentionPositions,
    Axis,
    Context,
    DistanceBias,
    Factory,
    Heads,
    KeyValues,
    Linear,
    LocalHeads,
    Mixer,
    Norm,
    Site,
    SitelessFactory,
)
from blocks.norms.rms import RMSNorm
from blocks.positions.rotary import RotaryPositions
from registry import Capabilities, Cut, Positive, PositiveFloat, Probability, Runtime, register

Projection = Literal["q_down", "q", "kv_down", "k", "k_rotary", "v", "out"]
PAIRWISE = partial(RotaryPositions, interleaved=True)


@register("latent")
class LatentAttention(Mixer):
    """Multi-head attention whose keys and values are projected from a latent vector that all heads share.

    With the latent c = norm(kv_down(x)), values are v(c), and keys k(c) concatenated with the rotated k_rotary(x),
    which all heads share. The cache holds only c and the rotated k_rotary(x).

    Args:
        heads: number of heads.
        head_dim: width of the part of a head's queries and keys without positions; null: dim / heads.
        rotary_dim: width of the part with positions; null: half of ``head_dim``, rounded up to an even number.
        value_dim: width of each head's values; null: ``head_dim``.
        kv_rank: width of the latent; null: 4 * ``head_dim``.
        q_rank: width of a latent for the queries; null: queries are projected from the input.
        norm: norm of the latents.
        q_scale: factor on the queries' latent, after its norm, or on the input without ``q_rank``.
        kv_scale: factor on the latent, after its norm.
        rotary_norm: norm of k_rotary(x), before positions; null: disabled.
        positions: positions applied to the rotary part of queries and keys, or added to the scores.
        scale: factor on the scores before the softmax; null: 1 / sqrt(head_dim + rotary_dim).
        bias: biases in all projections, or a list of the projections that have one, out of q_down, q, kv_down, k,
            k_rotary, v, out.
        sinks: learn one extra score per head that joins the softmax, so that a head can attend to no token.
        gate: multiply the heads' outputs by this activation of another projection of the input; null: disabled.
        gate_over: one gate for each channel of each head (channel), or one for each head (head).
        window: attend only to tokens less than this many tokens away, so that 1 is the token itself; null: disabled.
        selector: chooses the keys that each query attends to; null: all that it sees.
        dropout: probability of dropping an attention weight during training.
        backend: implementation; auto: the fastest one that supports the other options. All give equal results.
    """

    paper = "DeepSeek-AI, 2024, arXiv:2405.04434, section 2.1"
    formula = (
        "c = norm(kv_down(x)); "
        "k_h = [k_h(c), R k_rotary(x)], v_h = v_h(c); "
        "A_h = softmax(scale * q_h k_h^T) v_h; "
        "y = out([A_1, ..., A_H])"
    )
    outputs = ("out",)
    intermediates = LATENT_ATTENTION
    capabilities = Capabilities(
        places=frozenset({"causal", "bidirectional"}),
        backends=BACKENDS,
        positions=frozenset({"rotation", "bias"}),
        shards={
            "q": "columns",
            "k": "columns",
            "v": "columns",
            "local_heads": "columns",
            "k_rotary": "common",
            "rotary_norm": "common",
            "sinks": "columns",
            "gate": "columns",
            "gate_activation": "between",
            "out": "rows",
        },
    )

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        head_dim: Positive | None = None,
        rotary_dim: Positive | None = None,
        value_dim: Positive | None = None,
        kv_rank: Positive | None = None,
        q_rank: Positive | None = None,
        norm: Factory[Norm] = RMSNorm,
        q_scale: PositiveFloat = 1.0,
        kv_scale: PositiveFloat = 1.0,
        rotary_norm: Factory[Norm] | None = None,
        positions: Factory[AttentionPositions] = PAIRWISE,
        scale: PositiveFloat | None = None,
        bias: bool | tuple[Projection, ...] = False,
        sinks: bool = False,
        gate: SitelessFactory[Activation] | None = None,
        gate_over: GateOver = "channel",
        window: Positive | None = None,
        selector: SelectorFactory | None = None,
        dropout: Probability = 0.0,
        backend: Annotated[Backend, Runtime()] = "auto",
    ) -> None:
        super().__init__(site)
        self.heads, self.head_dim = heads, head_dim or site.head_dim(heads)
        self.rotary_dim = rotary_dim or 2 * -(-self.head_dim // 4)
        self.value_dim, self.kv_rank = value_dim or self.head_dim, kv_rank or 4 * self.head_dim
        self.scale = score_scale(site, scale, self.head_dim + self.rotary_dim, grows=head_dim is None)
        self.causal, self.window, self.dropout = site.causal, window, dropout
        self.attend = choose(backend, softcap=False, dropout=dropout > 0)
        self.positions = positions(site.resized(self.rotary_dim, heads))
        self.local_heads = LocalHeads()
        self.q_scale, self.kv_scale = q_scale, kv_scale
        self._project(site, q_rank, norm, bias)
        self.rotary_norm = rotary_norm(site.resized(self.rotary_dim)) if rotary_norm else None
        self.sinks = nn.Parameter(torch.zeros(heads)) if sinks else None
        gate_dim = self.value_dim if gate_over == "channel" else 1
        self.gate = HeadProjection(site, site.dim, heads, gate_dim, bias=False) if gate else None
        self.gate_activation = gate() if gate else None
        self.selector = selector(site, q_rank or site.dim) if selector else None

    def _project(
        self, site: Site, q_rank: int | None, norm: Factory[Norm], bias: bool | tuple[Projection, ...]
    ) -> None:
        def biased(name: Projection) -> bool:
            return bias if isinstance(bias, bool) else name in bias

        if q_rank is None and not isinstance(bias, bool) and "q_down" in bias:
            raise ValueError(
                "bias lists q_down, but without q_rank there is no such projection; set q_rank or leave q_down out"
            )
        width, rank = self.head_dim + self.rotary_dim, self.kv_rank
        self.q_down = Linear(site, site.dim, q_rank, bias=biased("q_down")) if q_rank else None
        self.q_norm = norm(site.resized(q_rank)) if q_rank else None
        self.q = HeadProjection(site, q_rank or site.dim, self.heads, width, bias=biased("q"))
        self.kv_down = Linear(site, site.dim, rank, bias=biased("kv_down"))
        self.kv_norm = norm(site.resized(rank))
        self.k = HeadProjection(site, rank, self.heads, self.head_dim, bias=biased("k"))
        self.v = HeadProjection(site, rank, self.heads, self.value_dim, bias=biased("v"))
        self.k_rotary = HeadProjection(site, site.dim, 1, self.rotary_dim, bias=biased("k_rotary"))
        self.out = Linear(site, self.heads * self.value_dim, site.dim, bias=biased("out"))
        self.can_absorb = not biased("k") and not biased("v")

    def shards(self) -> Mapping[str, Cut]:
        """With a norm after it, k_rotary is whole on each process, and gradients are summed after the norm only.

        A selector that learns needs the attention weights of all heads.
        """
        if self.selector is not None and self.selector.learns:
            return {}
        cuts = dict(super().shards())
        if self.rotary_norm is not None:
            del cuts["k_rotary"]
        return cuts

    def constants(self) -> Mapping[str, float]:
        return {"sinks": 0.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Heads(self.heads, self.head_dim, keys=self.heads)
        values = replace(heads, each=self.value_dim)
        return {
            **projection_axes(("q",), replace(heads, each=self.head_dim + self.rotary_dim)),
            **projection_axes(("k",), heads),
            **projection_axes(("v",), values),
            **projection_axes(("gate",), replace(heads, each=self.gate.head_dim if self.gate else 1)),
            "sinks": (replace(heads, each=1),),
            "out.weight": (None, replace(values, zero_new=True)),
            **dict.fromkeys(("q_down.weight", "kv_down.weight", "k_rotary.weight"), (None, None)),
        }

    def prepare(self, context: Context) -> None:
        self._visible(context)
        self.positions.prepare(context)
        if self.selector is not None:
            self.selector.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        queries = x if self.q_down is None or self.q_norm is None else self.q_norm(self.q_down(x))
        queries = queries * self.q_scale  # (B, T, R) or (B, T, D)
        q = self._placed(self.q(queries), context)  # (B, H, T, head_dim + rotary_dim)
        latent = self.kv_norm(self.kv_down(x))[:, None] * self.kv_scale  # (B, 1, T, R)
        k_rotary = self.k_rotary(x)  # (B, 1, T, rotary_dim)
        k_rotary = self.positions.rotate(k_rotary if self.rotary_norm is None else self.rotary_norm(k_rotary), context)
        state = context.state("mixer", lambda: KeyValues(context.cached_window(self.window)))
        if state is not None:
            latent, k_rotary = state.append(latent, k_rotary)  # (B, 1, S, ...), with those of earlier tokens
        one = state is not None and context.length == 1
        read = self._absorbed if one and self.can_absorb and not self.training else self._expanded
        choice = Choice()
        if self.selector is not None:
            choice = self.selector(x, queries, self._visible(context), context, self.window)
        y = read(q, latent, k_rotary, choice, context)  # (B, H, T, value_dim)
        self.record(weighted=y)
        if self.gate is not None and self.gate_activation is not None:
            y = y * self.gate_activation(self.gate(x))  # (B, H, T, value_dim) or (B, H, T, 1)
            self.record(gated=y)
        joined = y.transpose(1, 2).flatten(2)
        self.record(joined=joined)
        return self.out(joined)

    def _placed(self, q: Tensor, context: Context) -> Tensor:
        """(B, H, T, K) with the last ``rotary_dim`` channels rotated."""
        return torch.cat([q[..., : self.head_dim], self.positions.rotate(q[..., self.head_dim :], context)], dim=-1)

    def _expanded(self, q: Tensor, latent: Tensor, k_rotary: Tensor, choice: Choice, context: Context) -> Tensor:
        """Compute the keys and values of every head: the fewest operations for many queries."""
        k, v = self.k(latent[:, 0]), self.v(latent[:, 0])  # (B, H, S, ...)
        k = torch.cat([k, k_rotary.expand(-1, k.shape[1], -1, -1)], dim=-1)
        self.record(placed_q=q, latent=latent[:, 0], rotary_key=k_rotary[:, 0], placed_k=k, v=v, placed_v=v)
        return self._attend(q, k, v, choice, context)

    def _absorbed(self, q: Tensor, latent: Tensor, k_rotary: Tensor, choice: Choice, context: Context) -> Tensor:
        """Project the query instead of the keys, q (k c) = (q k) c: the fewest operations for one query."""
        q_latent = q[..., : self.head_dim] @ self.k.merged_weight().view(-1, self.head_dim, self.kv_rank)
        q = torch.cat([q_latent, q[..., self.head_dim :]], dim=-1)
        k = torch.cat([latent, k_rotary], dim=-1)
        y = self._attend(q, k, k, choice, context)  # values are the latents; kernels need equal widths
        return y[..., : self.kv_rank] @ self.v.merged_weight().view(-1, self.value_dim, self.kv_rank).transpose(1, 2)

    def _visible(self, context: Context) -> Visibility:
        cached_window = context.cached_window(self.window)
        return visibility(context, causal=self.causal, window=self.window, cached_window=cached_window)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, choice: Choice, context: Context) -> Tensor:
        visible = self._visible(context)
        bias = score_bias(self.positions, context, context.cached_window(self.window))
        if bias is not None:
            bias = DistanceBias(self.local_heads(bias.values), bias.reach)
        scoring = Scoring(self.scale, self.dropout if self.training else 0.0, bias=bias, sinks=self.sinks)
        if self.selector is not None:
            self.selector.learn(choice, q, k, visible, scoring)
            visible = visible.among(choice.keys)
        record_scores(self, q, k, visible, scoring)
        return self.attend(q, k, v, visible, scoring)

    def flops_per_token(self, length: int) -> float:
        span = min(length, self.window) if self.window else length
        widths = self.head_dim + self.rotary_dim + self.value_dim
        if self.selector is not None and self.selector.learns and self.training:
            widths += self.head_dim + self.rotary_dim  # the weights that its loss compares
        return super().flops_per_token(length) + 2 * self.heads * widths * span

    @property
    def scored_heads(self) -> int:
        return self.heads

    @property
    def cached_per_token(self) -> int:
        return self.kv_rank + self.rotary_dim + (self.selector.cached_per_token if self.selector else 0)

    @property
    def cached_per_sequence(self) -> int:
        return 0 if self.selector is None else self.selector.cached_per_sequence
