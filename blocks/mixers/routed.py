"""Attention whose heads are chosen for each token."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from blocks.attention.backends import BACKENDS, Backend, choose
from blocks.attention.projection import HeadProjection, groups_of, projection_axes, score_scale
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility, visibility
from blocks.base import (
    AttentionPositions,
    Axis,
    Context,
    Experts,
    Factory,
    Heads,
    KeyHeads,
    KeyValues,
    Linear,
    Mixer,
    Router,
    Site,
)
from blocks.base.component import flops_per_token
from blocks.feedforward.dispatch import ExpertOrder
from blocks.positions.none import NoAttentionPositions
from blocks.routing.top_k import TopKRouter
from registry import Capabilities, NonNegativeFloat, Positive, Probability, Runtime, register

Projection = Literal["k", "v", "out"]


@register("routed_attention")
class RoutedAttention(Mixer):
    """Sum of w_e(x) attention_e(x) over the groups e of query heads that a router chooses for each token.

    Each expert is a query projection and an output projection of its own. Keys and values are those of all tokens, and
    all experts share them, so that the cache is as small as that of one expert.

    Args:
        experts: number of experts.
        heads: number of query heads of an expert.
        kv_heads: number of key and value heads, a divisor of ``heads``; null: equal to ``heads``; 1: multi-query.
        head_dim: width of each head; null: dim / heads.
        router: chooses the experts of each token and their weights.
        bias: biases in all of these projections, or a list of those that have one, out of k, v, out; that of out is
            added once, to the sum.
        scale: factor on the scores before the softmax; null: 1 / sqrt(head_dim).
        window: attend only to tokens less than this many tokens away, so that 1 is the token itself; null: disabled.
        positions: positions applied to queries and keys.
        dropout: probability of dropping an attention weight during training.
        backend: implementation; auto: the fastest one that supports the other options. All give equal results.
    """

    paper = "Zhang et al., 2022, arXiv:2210.05144; Shen et al., 2024, arXiv:2404.07413"
    formula = (
        "A_(e h) = softmax(scale * q_(e h)(x) k_h^T) v_h; y = sum_(e ∈ chosen(x)) w_e(x) out_e([A_(e 1), ..., A_(e H)])"
    )
    outputs = ("out",)
    capabilities = Capabilities(
        places=frozenset({"causal", "bidirectional"}), backends=BACKENDS, positions=frozenset({"rotation"})
    )

    def __init__(
        self,
        site: Site,
        *,
        experts: Positive = 4,
        heads: Positive = 4,
        kv_heads: Positive | None = None,
        head_dim: Positive | None = None,
        router: Factory[Router] = TopKRouter,
        bias: bool | tuple[Projection, ...] = False,
        scale: NonNegativeFloat | None = None,
        window: Positive | None = None,
        positions: Factory[AttentionPositions] = NoAttentionPositions,
        dropout: Probability = 0.0,
        backend: Annotated[Backend, Runtime()] = "auto",
    ) -> None:
        super().__init__(site)
        self.heads, self.kv_heads = heads, groups_of(heads, kv_heads)
        self.head_dim = head_dim or site.head_dim(heads)
        self.scale = score_scale(site, scale, self.head_dim, grows=head_dim is None)
        self.causal, self.window, self.dropout, self.size = site.causal, window, dropout, experts
        self.attend = choose(backend, softcap=False, dropout=dropout > 0)
        biased = ("k", "v", "out") if bias is True else bias or ()
        each = replace(site, experts=experts)
        self.router = router(each)
        self.q = Linear(each, site.dim, heads * self.head_dim, bias=False)
        self.k = HeadProjection(site, site.dim, self.kv_heads, self.head_dim, bias="k" in biased)
        self.v = HeadProjection(site, site.dim, self.kv_heads, self.head_dim, bias="v" in biased)
        self.out = Linear(each, heads * self.head_dim, site.dim, bias=False)
        self.out_bias = nn.Parameter(torch.zeros(site.dim)) if "out" in biased else None
        self.positions = positions(site.resized(self.head_dim, heads * self.router.top_k))

    def constants(self) -> Mapping[str, float]:
        return {"out_bias": 0.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        experts, heads = Experts(self.size), Heads(self.heads, self.head_dim, keys=self.kv_heads)
        keys = KeyHeads(self.kv_heads, self.head_dim, queries=self.heads)
        return {
            "q.weight": (experts, heads, None),
            **projection_axes(("k", "v"), keys),
            "out.weight": (experts, None, replace(heads, zero_new=True)),
            "out_bias": (None,),
        }

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self._visible(context)
        self.positions.prepare(context)
        self.router.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows = x.flatten(0, -2)  # (N, D) with N = B * T
        weights, chosen = self.router(rows)  # (N, k)
        order = ExpertOrder(chosen, self.size)
        q = order.restored(self.q(order.spread(rows), order.offsets))  # (N * k, H * K)
        q, k = self.positions.rotate(self._heads(q, x), context), self.positions.rotate(self.k(x), context)
        v = self.v(x)  # (B, G, T, K)
        cached_window = context.cached_window(self.window)
        if (state := context.state("mixer", lambda: KeyValues(cached_window))) is not None:
            k, v = state.append(k, v)  # (B, G, S, K), with those of earlier tokens
        dropout = self.dropout if self.training else 0.0
        y = self.attend(q, k, v, self._visible(context), Scoring(self.scale, dropout))  # (B, G * k * H / G, T, K)
        y = self.out(order.sorted_rows(self._rows(y)), order.offsets)
        y = order.gather(y, weights).view(x.shape)
        return y if self.out_bias is None else y + self.out_bias.to(y.dtype)

    def _heads(self, q: Tensor, x: Tensor) -> Tensor:
        """(N * k, H * K) -> (B, G * k * H / G, T, K), the query heads of each key head side by side."""
        q = q.view(*x.shape[:2], self.router.top_k, self.kv_heads, self.heads // self.kv_heads, self.head_dim)
        return q.permute(0, 3, 2, 4, 1, 5).flatten(1, 3)

    def _rows(self, y: Tensor) -> Tensor:
        """The inverse of :meth:`_heads`: (B, G * k * H / G, T, K) -> (N * k, H * K)."""
        grouped = (self.kv_heads, self.router.top_k, self.heads // self.kv_heads)
        return y.view(len(y), *grouped, *y.shape[2:]).permute(0, 4, 2, 1, 3, 5).flatten(3).flatten(0, 2)

    def _visible(self, context: Context) -> Visibility:
        cached_window = context.cached_window(self.window)
        return visibility(context, causal=self.causal, window=self.window, cached_window=cached_window)

    def flops_per_token(self, length: int) -> float:
        span = min(length, self.window or length)
        chosen = self.router.top_k
        inactive = flops_per_token(self.q, length) + flops_per_token(self.out, length)
        scored = 4 * chosen * self.heads * self.head_dim * span
        return super().flops_per_token(length) + (chosen - 1) * inactive + scored

    @property
    def cached_per_token(self) -> int:
        return 2 * self.kv_heads * self.head_dim
