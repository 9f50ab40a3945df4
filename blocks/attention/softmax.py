"""Multi-head self-attention."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from blocks.attention.backends import BACKENDS, Backend, choose
from blocks.attention.key_selector import Choice, SelectorFactory
from blocks.attention.projection import (
    GROUPED_SHARDS,
    GateOver,
    HeadProjection,
    NormOver,
    check_reused_kv,
    check_shared_kv,
    grouped,
    grouped_axes,
    groups_of,
    head_norm,
    normalise,
    score_scale,
)
from blocks.attention.queries_keys_values import QueriesKeysValues
from blocks.attention.score_steps import SELF_ATTENTION, record_scores
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility, score_bias, visibility
from blocks.base import (
    Activation,
    AttentionPositions,
    Axis,
    Context,
    DistanceBias,
    Factory,
    Linear,
    LocalHeads,
    Norm,
    Site,
    SitelessFactory,
)
from blocks.positions.none import NoAttentionPositions
from registry import Capabilities, Cut, NonNegativeFloat, Positive, PositiveFloat, Probability, Runtime, register

Projection = Literal["q", "k", "v", "out"]


@register("attention")
class MultiHeadAttention(QueriesKeysValues):
    """Self-attention: softmax(cap(q k^T * scale) + bias) v in each head, concatenated and projected back.

    Multi-head, grouped-query or multi-query attention, depending on ``kv_heads``.

    Args:
        heads: number of query heads.
        kv_heads: number of key and value heads, a divisor of ``heads``; null: equal to ``heads``; 1: multi-query.
        head_dim: width of each head's queries and keys; null: dim / heads.
        value_dim: width of each head's values; null: ``head_dim``.
        shared_kv: use the projected keys, before their norm and positions, as values, too.
        reuse_kv: attend to the keys and values of the nearest earlier layer that has its own, of the same number and
            widths, window, chunk and rotation; it has no projection of either, and caches none.
        bias: biases in all projections, or a list of the projections that have one, out of q, k, v, out.
        qk_rank: width of one projection of the input, from which queries and keys are projected, with a bias if both
            have one; null: they are projected from the input.
        qk_rank_norm: norm of that projection; null: disabled.
        groups: number of blocks of each projection that is block-diagonal, by its name out of q, k, v, out.
        scale: factor on the scores before the softmax; null: 1 / sqrt(head_dim).
        softcap: bound c on the scores, as c * tanh(score / c); null: disabled.
        window: attend only to tokens less than this many tokens away, so that 1 is the token itself; null: disabled.
        chunk: attend only within one's own chunk of this many positions; null: disabled.
        sinks: learn one extra score per head that joins the softmax, so that a head can attend to no token.
        clip: clamp queries, keys and values to [-clip, clip] before positions are applied; null: disabled.
        qk_norm: norm of the queries and of the keys; null: disabled.
        qk_norm_over: normalise each head with shared weights (head), each head with its own weights (heads), or all
            heads together (projection).
        qk_norm_after: normalise after positions are applied instead of before.
        v_norm: norm of the values of each head; null: disabled.
        value_scale: factor on the values; null: disabled.
        gate: multiply the heads' outputs by this activation of another projection of the input; null: disabled.
        gate_over: one gate for each channel of each head (channel), or one for each head (head).
        out_norm: norm of the heads' outputs, before the gate and ``out``; null: disabled.
        out_norm_over: as ``qk_norm_over``.
        positions: positions applied to queries and keys, or added to the scores.
        temperature: a in the factor 1 + a ln(1 + floor((p + 1) / temperature_step)) on the queries at position p, from
            0, which keeps attention as sharp in long texts; 0: disabled.
        temperature_step: number of tokens over which this factor stays the same; null: 1.
        selector: chooses the keys that each query attends to; null: all that it sees.
        dropout: probability of dropping an attention weight during training.
        backend: implementation; auto: the fastest one that supports the other options. All give equal results.
    """

    paper = (
        "Vaswani et al., 2017, arXiv:1706.03762; multi-query: Shazeer, 2019, arXiv:1911.02150; grouped-query: Ainslie "
        "et al., 2023, arXiv:2305.13245; qk-norm: Henry et al., 2020, arXiv:2010.04245; softcap: Gemma Team, 2024, "
        "arXiv:2408.00118; sinks: OpenAI, 2025, arXiv:2508.10925; gate: Qiu et al., 2025, arXiv:2505.06708; "
        "qk_rank: Sun et al., 2020, arXiv:2004.02984; reuse_kv: Brandon et al., 2024, arXiv:2405.12981; out_norm: Wang "
        "et al., 2022, arXiv:2210.06423; chunk: Meta, 2025 (Llama 4); temperature: Nakanishi, 2025, arXiv:2501.19399"
    )
    formula = "A_h = softmax(scale * q_h k_h^T + bias) v_h; y = out([A_1, ..., A_H])"
    outputs = ("out",)
    intermediates = SELF_ATTENTION
    capabilities = Capabilities(
        places=frozenset({"causal", "bidirectional"}),
        backends=BACKENDS,
        positions=frozenset({"rotation", "bias"}),
        resizes=True,
        shards={**GROUPED_SHARDS, "v_norm": "between", "local_heads": "columns"},
    )

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        kv_heads: Positive | None = None,
        head_dim: Positive | None = None,
        value_dim: Positive | None = None,
        shared_kv: bool = False,
        reuse_kv: bool = False,
        bias: bool | tuple[Projection, ...] = False,
        qk_rank: Positive | None = None,
        qk_rank_norm: Factory[Norm] | None = None,
        groups: Mapping[str, Positive] | None = None,
        scale: NonNegativeFloat | None = None,
        softcap: PositiveFloat | None = None,
        window: Positive | None = None,
        chunk: Positive | None = None,
        sinks: bool = False,
        clip: PositiveFloat | None = None,
        qk_norm: Factory[Norm] | None = None,
        qk_norm_over: NormOver = "head",
        qk_norm_after: bool = False,
        v_norm: Factory[Norm] | None = None,
        value_scale: PositiveFloat | None = None,
        gate: SitelessFactory[Activation] | None = None,
        gate_over: GateOver = "channel",
        out_norm: Factory[Norm] | None = None,
        out_norm_over: NormOver = "projection",
        positions: Factory[AttentionPositions] = NoAttentionPositions,
        temperature: NonNegativeFloat = 0.0,
        temperature_step: Positive | None = None,
        selector: SelectorFactory | None = None,
        dropout: Probability = 0.0,
        backend: Annotated[Backend, Runtime()] = "auto",
    ) -> None:
        super().__init__(site)
        self.heads, self.kv_heads = heads, groups_of(heads, kv_heads)
        self.head_dim = head_dim or site.head_dim(heads)
        self.value_dim, self.value_scale = value_dim or self.head_dim, None if reuse_kv else value_scale
        self.layer = site.layer
        if qk_norm_after and qk_norm_over == "projection":
            raise ValueError("qk_norm_after does not work with qk_norm_over=projection; choose head or heads")
        self.causal, self.window, self.chunk, self.clip = site.causal, window, chunk, clip
        self.temperature, self.temperature_step = temperature, (temperature_step or 1) if temperature else 1
        self.absolute = temperature > 0
        self.scale = score_scale(site, scale, self.head_dim, grows=head_dim is None)
        self.softcap, self.dropout = softcap, dropout
        self.attend = choose(backend, softcap=softcap is not None, dropout=dropout > 0)
        named = () if isinstance(bias, bool) else bias
        biased = ("q", "k", "v", "out") if bias is True else named
        self.groups = blocks = grouped(groups, ("q", "k", "v", "out"))
        if shared_kv:
            check_shared_kv(named, self.value_dim, self.head_dim)
        if reuse_kv:
            check_reused_kv((*blocks, *named))

        def project(name: Projection, width: int, heads: int, head_dim: int) -> HeadProjection:
            return HeadProjection(site, width, heads, head_dim, bias=name in biased, groups=blocks.get(name, 1))

        width = qk_rank or site.dim
        self.qk_down = Linear(site, site.dim, width, bias={"q", "k"} <= set(biased)) if qk_rank else None
        self.qk_rank_norm = qk_rank_norm(site.resized(width)) if qk_rank and qk_rank_norm else None
        self.q = project("q", width, heads, self.head_dim)
        self.k = None if reuse_kv else project("k", width, self.kv_heads, self.head_dim)
        self.v = None if reuse_kv or shared_kv else project("v", site.dim, self.kv_heads, self.value_dim)
        inner = heads * self.value_dim
        self.out = Linear(site, inner, site.written_dim, bias="out" in biased, groups=blocks.get("out", 1))
        self.over: NormOver = qk_norm_over if qk_norm else "head"
        self.q_norm = head_norm(qk_norm, site, heads, self.head_dim, qk_norm_over)
        self.k_norm = None if reuse_kv else head_norm(qk_norm, site, self.kv_heads, self.head_dim, qk_norm_over)
        self.v_norm = None if reuse_kv else head_norm(v_norm, site, self.kv_heads, self.value_dim, "head")
        self.sinks = nn.Parameter(torch.zeros(heads)) if sinks else None
        gate_dim = self.value_dim if gate_over == "channel" else 1
        self.gate = HeadProjection(site, site.dim, heads, gate_dim, bias=False) if gate else None
        self.gate_activation = gate() if gate else None
        self.out_over: NormOver = out_norm_over if out_norm else "head"
        self.out_norm = head_norm(out_norm, site, heads, self.value_dim, out_norm_over)
        self.positions = positions(site.resized(self.head_dim, heads))
        rotates = "rotation" in self.positions.capabilities.needs  # without rotation, before and after are the same
        self.norm_after = qk_norm_after and qk_norm is not None and rotates
        self.local_heads = LocalHeads()
        self.selector = selector(site, site.dim) if selector else None

    def constants(self) -> Mapping[str, float]:
        return {"sinks": 0.0}

    def shards(self) -> Mapping[str, Cut]:
        """Nothing where all heads are needed: by one norm of them, or by a selector that learns from their weights."""
        learns = self.selector is not None and self.selector.learns
        return {} if self.groups or learns or "projection" in (self.over, self.out_over) else super().shards()

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        if self.groups:
            return {}  # heads and groups do not grow together
        heads = grouped_axes(
            self.q,
            self.kv_heads,
            self.value_dim,
            self.gate,
            q_norm=(self.q_norm, self.over),
            k_norm=(self.k_norm, self.over),
            out_norm=(self.out_norm, self.out_over),
        )
        return heads if self.qk_down is None else {**heads, "qk_down.weight": (None, None)}

    def prepare(self, context: Context) -> None:
        self._visible(context)
        self.positions.prepare(context)
        if self.selector is not None:
            self.selector.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.queries_keys_values(x, context)  # (B, H, T, K), (B, G, S, K) and (B, G, S, V)
        visible, choice = self._visible(context), Choice()
        if self.selector is not None:
            choice = self.selector(x, x, visible, context, self.window)
        bias = score_bias(self.positions, context, context.cached_window(self.window))
        if bias is not None:
            bias = DistanceBias(self.local_heads(bias.values), bias.reach)
        dropout = self.dropout if self.training else 0.0
        scoring = Scoring(self.scale, dropout, self.softcap, bias, self.sinks)
        if self.selector is not None:
            self.selector.learn(choice, q, k, visible, scoring)
            visible = visible.among(choice.keys)
        record_scores(self, q, k, visible, scoring)
        y = self.attend(q, k, v, visible, scoring)  # (B, H, T, V)
        self.record(weighted=y)
        return self.out(self._joined(y, x))

    def _joined(self, y: Tensor, x: Tensor) -> Tensor:
        """(B, H, T, V) -> (B, T, H * V), after norm and gate."""
        if self.out_norm is not None:
            y = normalise(y, self.out_norm, self.out_over)
            self.record(normed=y)
        if self.gate is not None and self.gate_activation is not None:
            y = y * self.gate_activation(self.gate(x))  # (B, H, T, V) or (B, H, T, 1)
            self.record(gated=y)
        joined = y.transpose(1, 2).flatten(2)
        self.record(joined=joined)
        return joined

    def _visible(self, context: Context) -> Visibility:
        cached_window = context.cached_window(self.window)
        return visibility(
            context, causal=self.causal, window=self.window, cached_window=cached_window, chunk=self.chunk
        )

    def flops_per_token(self, length: int) -> float:
        span = min(length, self.window or length, self.chunk or length)
        widths = self.head_dim + self.value_dim
        if self.selector is not None and self.selector.learns and self.training:
            widths += self.head_dim  # the weights that its loss compares
        return super().flops_per_token(length) + 2 * self.heads * widths * span

    @property
    def scored_heads(self) -> int:
        return self.heads

    @property
    def cached_per_token(self) -> int:
        own = 0 if self.reuse_kv else self.kv_heads * (self.head_dim + self.value_dim)
        return own + (0 if self.selector is None else self.selector.cached_per_token)

    @property
    def cached_per_sequence(self) -> int:
        return 0 if self.selector is None else self.selector.cached_per_sequence
