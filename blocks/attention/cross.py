"""Multi-head cross-attention."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from blocks.attention.backends import BACKENDS, Backend, choose
from blocks.attention.projection import (
    GROUPED_SHARDS,
    GateOver,
    HeadProjection,
    NormOver,
    grouped_axes,
    groups_of,
    head_norm,
    normalise,
    score_scale,
)
from blocks.attention.score_steps import CROSS_ATTENTION, record_scores
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import memory_visibility
from blocks.base import Activation, Axis, Context, Factory, KeyValues, Linear, Mixer, Norm, Site, SitelessFactory
from registry import Capabilities, Cut, NonNegativeFloat, Positive, PositiveFloat, Probability, Runtime, register

Projection = Literal["q", "k", "v", "out"]


@register("cross_attention")
class CrossAttention(Mixer):
    """Attention from the decoder's tokens to the encoder's output: softmax(cap(q k^T * scale)) v in each head.

    Queries come from the decoder, keys and values from the encoder's output, without positions. In decoding, keys and
    values are computed once and cached.

    Args:
        heads: number of query heads.
        kv_heads: number of key and value heads, a divisor of ``heads``; null: equal to ``heads``; 1: multi-query.
        head_dim: width of each head; null: dim / heads.
        bias: biases in all projections, or a list of the projections that have one, out of q, k, v, out.
        scale: factor on the scores before the softmax; null: 1 / sqrt(head_dim).
        softcap: bound c on the scores, as c * tanh(score / c); null: disabled.
        sinks: learn one extra score per head that joins the softmax, so that a head can attend to no token.
        clip: clamp queries, keys and values to [-clip, clip]; null: disabled.
        qk_norm: norm of the queries and of the keys; null: disabled.
        qk_norm_over: normalise each head with shared weights (head), each head with its own weights (heads), or all
            heads together (projection).
        gate: multiply the heads' outputs by this activation of another projection of the input; null: disabled.
        gate_over: one gate for each channel of each head (channel), or one for each head (head).
        out_norm: norm of the heads' outputs, before the gate and ``out``; null: disabled.
        out_norm_over: as ``qk_norm_over``.
        dropout: probability of dropping an attention weight during training.
        backend: implementation; auto: the fastest one that supports the other options. All give equal results.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762, section 3.2.3"
    formula = "q = q(x), k = k(memory), v = v(memory); A_h = softmax(scale * q_h k_h^T) v_h; y = out([A_1, ..., A_H])"
    outputs = ("out",)
    intermediates = CROSS_ATTENTION
    capabilities = Capabilities(places=frozenset({"cross"}), backends=BACKENDS, shards=GROUPED_SHARDS)

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        kv_heads: Positive | None = None,
        head_dim: Positive | None = None,
        bias: bool | tuple[Projection, ...] = False,
        scale: NonNegativeFloat | None = None,
        softcap: PositiveFloat | None = None,
        sinks: bool = False,
        clip: PositiveFloat | None = None,
        qk_norm: Factory[Norm] | None = None,
        qk_norm_over: NormOver = "head",
        gate: SitelessFactory[Activation] | None = None,
        gate_over: GateOver = "channel",
        out_norm: Factory[Norm] | None = None,
        out_norm_over: NormOver = "projection",
        dropout: Probability = 0.0,
        backend: Annotated[Backend, Runtime()] = "auto",
    ) -> None:
        super().__init__(site)
        self.heads, self.kv_heads = heads, groups_of(heads, kv_heads)
        self.head_dim = head_dim or site.head_dim(heads)
        self.scale = score_scale(site, scale, self.head_dim, grows=head_dim is None)
        self.softcap, self.clip, self.dropout = softcap, clip, dropout
        self.attend = choose(backend, softcap=softcap is not None, dropout=dropout > 0)
        biased = ("q", "k", "v", "out") if bias is True else bias or ()
        inner, source = heads * self.head_dim, site.memory_dim or site.dim
        self.q = HeadProjection(site, site.dim, heads, self.head_dim, bias="q" in biased)
        self.k = HeadProjection(site, source, self.kv_heads, self.head_dim, bias="k" in biased)
        self.v = HeadProjection(site, source, self.kv_heads, self.head_dim, bias="v" in biased)
        self.out = Linear(site, inner, site.dim, bias="out" in biased)
        self.over: NormOver = qk_norm_over if qk_norm else "head"
        self.q_norm = head_norm(qk_norm, site, heads, self.head_dim, qk_norm_over)
        self.k_norm = head_norm(qk_norm, site, self.kv_heads, self.head_dim, qk_norm_over)
        self.sinks = nn.Parameter(torch.zeros(heads)) if sinks else None
        gate_dim = self.head_dim if gate_over == "channel" else 1
        self.gate = HeadProjection(site, site.dim, heads, gate_dim, bias=False) if gate else None
        self.gate_activation = gate() if gate else None
        self.out_over: NormOver = out_norm_over if out_norm else "head"
        self.out_norm = head_norm(out_norm, site, heads, self.head_dim, out_norm_over)

    def constants(self) -> Mapping[str, float]:
        return {"sinks": 0.0}

    def shards(self) -> Mapping[str, Cut]:
        """Nothing where one norm covers all heads: each process would normalise over its own heads only."""
        return {} if "projection" in (self.over, self.out_over) else super().shards()

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return grouped_axes(
            self.q,
            self.kv_heads,
            self.head_dim,
            self.gate,
            q_norm=(self.q_norm, self.over),
            k_norm=(self.k_norm, self.over),
            out_norm=(self.out_norm, self.out_over),
        )

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q = self._project(self.q, self.q_norm, x)  # (B, H, T, K)
        state = context.state("cross", KeyValues)
        if state is not None and state.keys is not None and state.values is not None:
            k, v = state.keys, state.values
        else:
            memory = _memory(context, batch=x.shape[0])
            self.record(memory=memory)
            k, v = self._project(self.k, self.k_norm, memory), self._project(self.v, None, memory)  # (B, G, S, K)
            if state is not None:
                state.append(k, v)
        dropout = self.dropout if self.training else 0.0
        scoring = Scoring(self.scale, dropout, self.softcap, sinks=self.sinks)
        visible = memory_visibility(context, q.shape[2], k.shape[2])
        self.record(q=q, k=k, v=v, placed_q=q, placed_k=k, placed_v=v)
        record_scores(self, q, k, visible, scoring)
        y = self.attend(q, k, v, visible, scoring)  # (B, H, T, K)
        self.record(weighted=y)
        if self.out_norm is not None:
            y = normalise(y, self.out_norm, self.out_over)
            self.record(normed=y)
        if self.gate is not None and self.gate_activation is not None:
            y = y * self.gate_activation(self.gate(x))  # (B, H, T, K) or (B, H, T, 1)
            self.record(gated=y)
        joined = y.transpose(1, 2).flatten(2)
        self.record(joined=joined)
        return self.out(joined)

    def _project(self, projection: HeadProjection, norm: Norm | None, x: Tensor) -> Tensor:
        y = normalise(projection(x), norm, self.over)
        return y if self.clip is None else y.clamp(-self.clip, self.clip)

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 4 * self.heads * self.head_dim * length

    @property
    def cached_per_token(self) -> int:
        return 2 * self.kv_heads * self.head_dim


def _memory(context: Context, batch: int) -> Tensor:
    """The encoder's output (B, S, memory_dim), checked."""
    if context.memory is None:
        raise ValueError("cross-attention needs the encoder's output, but context.memory is None")
    if context.memory.shape[0] != batch:
        raise ValueError(
            f"the memory, the encoder's output, has {context.memory.shape[0]} rows, but the tokens have {batch}"
        )
    return context.memory
