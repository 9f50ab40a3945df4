"""Scaled dot-product attention with many heads."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from blocks.attention.backends import BACKENDS, Backend, Scoring, choose
from blocks.attention.projection import HeadProjection, NormOver, head_norm, head_norm_axes, projection_axes
from blocks.attention.visibility import Visibility, memory_visibility, visibility
from blocks.base import (
    Activation,
    AttentionPositions,
    Axis,
    Context,
    Factory,
    Heads,
    KeyHeads,
    KeyValues,
    Linear,
    LocalHeads,
    Mixer,
    Norm,
    Site,
    SitelessFactory,
)
from blocks.positions.none import NoAttentionPositions
from registry import Capabilities, Cut, NonNegativeFloat, Positive, PositiveFloat, Probability, Runtime, register

Projection = Literal["q", "k", "v", "out"]


@register("attention")
class MultiHeadAttention(Mixer):
    """softmax(cap(q k^T * scale) + bias) v over ``heads`` heads, put side by side and projected back.

    One class for multi-head, grouped-query and multi-query attention; causal, bidirectional or cross by its site.

    Args:
        heads: number of query heads.
        kv_heads: number of key and value heads, a divisor of ``heads``; null: as many as ``heads``; 1: multi-query.
        head_dim: width of a head; null: the model's width over ``heads``.
        bias: biases in all projections, or a list of those that have one out of q, k, v, out.
        scale: factor on the scores before the softmax; null: 1 / sqrt(head_dim).
        softcap: squash the scores to c * tanh(score / c); null: leave them.
        window: a token sees only those closer than this many tokens, itself included; null: all.
        sinks: a learned score a head joins the softmax, so that a head can look at nothing.
        clip: queries, keys and values are cut to this magnitude before they are turned; null: not.
        qk_norm: norm of the queries and of the keys; null: none.
        qk_norm_over: each head with one set of weights, each of the heads with its own, or the whole projection.
        qk_norm_after: normalise after positions are applied instead of before.
        gate: the heads' results are multiplied by this activation of a further projection of the input; null: not.
        positions: how a score knows the distance of two tokens.
        dropout: share of the attention weights set to zero while training.
        backend: how it is computed; auto chooses the fastest that can, and all agree.
    """

    paper = (
        "Vaswani et al., 2017, arXiv:1706.03762; multi-query: Shazeer, 2019, arXiv:1911.02150; grouped-query: Ainslie "
        "et al., 2023, arXiv:2305.13245; qk-norm: Henry et al., 2020, arXiv:2010.04245; softcap: Gemma Team, 2024, "
        "arXiv:2408.00118; sinks: OpenAI, 2025, arXiv:2508.10925; gate: Qiu et al., 2025, arXiv:2505.06708"
    )
    outputs = ("out",)
    capabilities = Capabilities(
        backends=BACKENDS,
        positions=frozenset({"rotation", "bias"}),
        shards={
            "q": "columns",
            "k": "columns",
            "v": "columns",
            "gate": "columns",
            "sinks": "columns",
            "local_heads": "columns",
            "q_norm": "between",
            "k_norm": "between",
            "out": "rows",
        },
    )

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
        window: Positive | None = None,
        sinks: bool = False,
        clip: PositiveFloat | None = None,
        qk_norm: Factory[Norm] | None = None,
        qk_norm_over: NormOver = "head",
        qk_norm_after: bool = False,
        gate: SitelessFactory[Activation] | None = None,
        positions: Factory[AttentionPositions] = NoAttentionPositions,
        dropout: Probability = 0.0,
        backend: Annotated[Backend, Runtime()] = "auto",
    ) -> None:
        super().__init__(site)
        self.heads, self.kv_heads = heads, kv_heads or heads
        self.head_dim = _head_dim(site.dim, heads, self.kv_heads, head_dim)
        if qk_norm_after and qk_norm_over == "projection":
            raise ValueError("qk_norm_after needs heads, but qk_norm_over=projection knows none; choose head or heads")
        self.cross, self.causal, self.window, self.clip = site.memory_dim is not None, site.causal, window, clip
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.softcap, self.dropout = softcap, dropout
        self.attend = choose(backend, softcap=softcap is not None, dropout=dropout > 0)
        biased = ("q", "k", "v", "out") if bias is True else bias or ()
        inner, source = heads * self.head_dim, site.memory_dim or site.dim
        self.q = HeadProjection(site.dim, heads, self.head_dim, bias="q" in biased)
        self.k = HeadProjection(source, self.kv_heads, self.head_dim, bias="k" in biased)
        self.v = HeadProjection(source, self.kv_heads, self.head_dim, bias="v" in biased)
        self.out = Linear(site, inner, site.dim, bias="out" in biased)
        self.over: NormOver = qk_norm_over if qk_norm else "head"
        self.q_norm = head_norm(qk_norm, site, heads, self.head_dim, qk_norm_over) if qk_norm else None
        self.k_norm = head_norm(qk_norm, site, self.kv_heads, self.head_dim, qk_norm_over) if qk_norm else None
        self.sinks = nn.Parameter(torch.zeros(heads)) if sinks else None
        self.gate, self.gate_activation = (nn.Linear(site.dim, inner, bias=False), gate()) if gate else (None, None)
        self.positions = positions(site.resized(self.head_dim, heads))
        turned = "rotation" in self.positions.capabilities.needs  # only then is before another than after
        self.norm_after = qk_norm_after and qk_norm is not None and turned
        self.local_heads = LocalHeads()
        if self.cross and (window is not None or not isinstance(self.positions, NoAttentionPositions)):
            raise ValueError("a cross mixer knows no distances from target to source: leave out window and positions")

    def constants(self) -> Mapping[str, float]:
        return {"sinks": 0.0}

    def shards(self) -> Mapping[str, Cut]:
        """Nothing where one norm goes over all heads, of which each process would see some."""
        return {} if self.q_norm is not None and self.over == "projection" else super().shards()

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        queries = Heads(self.heads, self.head_dim, keys=self.kv_heads)
        keys = KeyHeads(self.kv_heads, self.head_dim, queries=self.heads)
        return {
            **projection_axes(("q", "gate"), queries),
            **projection_axes(("k", "v"), keys),
            **head_norm_axes("q_norm", self.q_norm, queries, self.over),
            **head_norm_axes("k_norm", self.k_norm, keys, self.over),
            "out.weight": (None, replace(queries, zero_new=True)),
            "sinks": (replace(queries, each=1),),
        }

    def prepare(self, context: Context) -> None:
        if not self.cross:
            visibility(context, causal=self.causal, window=self.window)
            self.positions.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, (k, v), visible, bias = self._queries(x, context), *self._sources(x, context)
        dropout = self.dropout if self.training else 0.0
        y = self.attend(q, k, v, visible, Scoring(self.scale, dropout, self.softcap, bias, self.sinks))  # (B, H, T, K)
        y = y.transpose(1, 2).flatten(2)
        if self.gate is not None and self.gate_activation is not None:
            y = y * self.gate_activation(self.gate(x))
        return self.out(y)

    def _sources(self, x: Tensor, context: Context) -> tuple[tuple[Tensor, Tensor], Visibility, Tensor | None]:
        """Keys and values, who may look at them, and what is added to the scores."""
        if self.cross:
            return self._memory(context, x.shape[0]), memory_visibility(context), None
        biases = [bias for bias in (self.positions.bias(context), context.bias) if bias is not None]
        bias = self.local_heads(sum(biases[1:], start=biases[0])) if biases else None
        return self._keys_values(x, context), visibility(context, causal=self.causal, window=self.window), bias

    def _queries(self, x: Tensor, context: Context) -> Tensor:
        q = self.q(x, None if self.norm_after else self.q_norm, self.over, self.clip)
        return self._normed(q, self.q_norm) if self.cross else self._placed(q, self.q_norm, context)

    def _keys_values(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        k = self._placed(self._keys(x), self.k_norm, context)
        v = self.v(x, clip=self.clip)
        state = context.state("mixer", KeyValues)
        return (k, v) if state is None else state.append(k, v)

    def _memory(self, context: Context, rows: int) -> tuple[Tensor, Tensor]:
        state = context.state("cross", KeyValues)
        if state is not None and state.keys is not None and state.values is not None:
            return state.keys, state.values
        if context.memory is None:
            raise ValueError("cross-attention needs the encoder's output, but the context has no memory")
        if context.memory.shape[0] != rows:
            raise ValueError(f"the encoder's output, the memory, has {context.memory.shape[0]} rows, the tokens {rows}")
        k = self._normed(self._keys(context.memory), self.k_norm)
        v = self.v(context.memory, clip=self.clip)
        return (k, v) if state is None else state.append(k, v)

    def _keys(self, x: Tensor) -> Tensor:
        return self.k(x, None if self.norm_after else self.k_norm, self.over, self.clip)

    def _placed(self, x: Tensor, norm: Norm | None, context: Context) -> Tensor:
        return self._normed(self.positions.rotate(x, context), norm)

    def _normed(self, x: Tensor, norm: Norm | None) -> Tensor:
        """The norm after positions, if that is where it stands."""
        if norm is None or not self.norm_after:
            return x
        return norm(x.transpose(1, 2)).transpose(1, 2)

    def flops_per_token(self, length: int) -> float:
        span = min(length, self.window) if self.window else length
        return super().flops_per_token(length) + 4 * self.heads * self.head_dim * span

    @property
    def scored_heads(self) -> int:
        return 0 if self.cross else self.heads

    @property
    def cached_per_token(self) -> int:
        return 2 * self.kv_heads * self.head_dim


def _head_dim(dim: int, heads: int, kv_heads: int, head_dim: int | None) -> int:
    if heads % kv_heads:
        raise ValueError(f"heads={heads} is not a multiple of kv_heads={kv_heads}")
    if head_dim is None and dim % heads:
        raise ValueError(f"dim={dim} is not a multiple of heads={heads}; change one of them or give head_dim")
    return head_dim or dim // heads
