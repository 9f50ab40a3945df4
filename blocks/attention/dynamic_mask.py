"""Attention whose keys have a weight of their own, which decides which of them are attended to."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.attention.eager import attention_scores, masked_softmax
from blocks.attention.key_selector import highest
from blocks.attention.projection import (
    HeadProjection,
    NormOver,
    grouped_axes,
    groups_of,
    head_norm,
    normalise,
    score_scale,
)
from blocks.attention.scoring import Scoring, repeat_heads
from blocks.attention.visibility import score_bias, visibility
from blocks.base import AttentionPositions, Axis, Context, Factory, KeyHeads, KeyValues, Linear, Mixer, Norm, Site
from blocks.positions.none import NoAttentionPositions
from registry import Capabilities, NonNegativeFloat, Positive, Probability, register

Projection = Literal["q", "k", "v", "out", "importance"]


@register("dynamic_mask")
class DynamicMaskAttention(Mixer):
    """Attention with an importance of each key, learned from its value, that is added to its scores.

    A query attends, in each key head, to those ``keep`` of the keys that it sees whose importance is the highest. All
    scores are computed: the model is sparse, and the time that it takes is that of a dense one.

    Args:
        heads: number of query heads.
        kv_heads: number of key and value heads, a divisor of ``heads``; null: equal to ``heads``; 1: multi-query.
        head_dim: width of each head; null: dim / heads.
        bias: biases in all projections, or a list of the projections that have one, out of q, k, v, out, importance.
        scale: factor on the products of queries and keys; null: 1 / sqrt(head_dim).
        keep: number of keys that a query attends to.
        ties: of keys with equal importance, as those of equal tokens in the first layer, choose the last, or any, as
            PyTorch's top-k does; then the choice can depend on padding and on the cache.
        qk_norm: norm of the queries and of the keys; null: disabled.
        qk_norm_over: normalise each head with shared weights (head), each head with its own weights (heads), or all
            heads together (projection).
        positions: positions applied to queries and keys, or added to the scores.
        dropout: probability of dropping an attention weight during training.
    """

    paper = "Shi et al., 2025, arXiv:2508.02124"
    formula = (
        'u = exp(a * "softplus"(W v)); A_h = softmax(scale * q_h k_h^T + u_h "over the highest" u_h) v_h; '
        "y = out([A_1, ..., A_H])"
    )
    outputs = ("out",)
    capabilities = Capabilities(
        places=frozenset({"causal", "bidirectional"}), positions=frozenset({"rotation", "bias"})
    )
    expected_failures: ClassVar[Mapping[str, str]] = {
        "every_stored_setting_has_an_effect": "no keys of random inputs are equally important, so that ties has none",
        "mixer/dynamic_mask/causal[keep=1]: gradients_reach_every_parameter": "one key has the weight 1",
        "mixer/dynamic_mask/bidirectional[keep=1]: gradients_reach_every_parameter": "one key has the weight 1",
        "mixer/dynamic_mask/causal[keep=1]: projections_take_adapters": "one key has the weight 1",
    }

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        kv_heads: Positive | None = None,
        head_dim: Positive | None = None,
        bias: bool | tuple[Projection, ...] = False,
        scale: NonNegativeFloat | None = None,
        keep: Positive = 2048,
        ties: Literal["last", "any"] = "last",
        qk_norm: Factory[Norm] | None = None,
        qk_norm_over: NormOver = "head",
        positions: Factory[AttentionPositions] = NoAttentionPositions,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        self.heads, self.kv_heads = heads, groups_of(heads, kv_heads)
        self.head_dim = head_dim or site.head_dim(heads)
        self.scale = score_scale(site, scale, self.head_dim, grows=head_dim is None)
        self.causal, self.keep, self.last, self.dropout = site.causal, keep, ties == "last", dropout
        every = ("q", "k", "v", "out", "importance")
        biased = every if bias is True else bias or ()
        self.q = HeadProjection(site, site.dim, heads, self.head_dim, bias="q" in biased)
        self.k = HeadProjection(site, site.dim, self.kv_heads, self.head_dim, bias="k" in biased)
        self.v = HeadProjection(site, site.dim, self.kv_heads, self.head_dim, bias="v" in biased)
        self.importance = Linear(site, self.kv_heads * self.head_dim, self.kv_heads, bias="importance" in biased)
        self.rate = nn.Parameter(torch.zeros(self.kv_heads))
        self.out = Linear(site, heads * self.head_dim, site.dim, bias="out" in biased)
        self.over: NormOver = qk_norm_over if qk_norm else "head"
        self.q_norm = head_norm(qk_norm, site, heads, self.head_dim, qk_norm_over)
        self.k_norm = head_norm(qk_norm, site, self.kv_heads, self.head_dim, qk_norm_over)
        self.positions = positions(site.resized(self.head_dim, heads))

    def constants(self) -> Mapping[str, float]:
        return {"rate": 0.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        keys = KeyHeads(self.kv_heads, self.head_dim, queries=self.heads)
        own = replace(keys, each=1)
        return {
            **grouped_axes(
                self.q,
                self.kv_heads,
                self.head_dim,
                None,
                q_norm=(self.q_norm, self.over),
                k_norm=(self.k_norm, self.over),
            ),
            "importance.weight": (own, keys),
            "importance.bias": (own,),
            "rate": (own,),
        }

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        visibility(context, causal=self.causal)
        self.positions.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q = normalise(self.q(x), self.q_norm, self.over)  # (B, H, T, K)
        k = normalise(self.k(x), self.k_norm, self.over)  # (B, G, T, K)
        v = self.v(x)
        q, k = self.positions.rotate(q, context), self.positions.rotate(k, context)
        if (state := context.state("mixer", KeyValues)) is not None:
            k, v = state.append(k, v)  # (B, G, S, K), with those of earlier tokens
        steps = self.importance(torch.cat(v.unbind(1), dim=-1)).transpose(1, 2).contiguous()  # (B, G, S)
        important = (self.rate[:, None] * F.softplus(steps)).exp()[:, :, None].to(k.dtype)  # (B, G, 1, S)
        scores = attention_scores(q, k, Scoring(self.scale, bias=score_bias(self.positions, context)))
        mask = visibility(context, causal=self.causal).mask()
        if k.shape[2] > self.keep:
            mask = self._chosen(important, mask, q.shape[2])
        scores = scores + repeat_heads(important, self.heads)
        weights = F.dropout(masked_softmax(scores, mask), self.dropout if self.training else 0.0)
        y = weights @ repeat_heads(v, self.heads)
        return self.out(y.transpose(1, 2).flatten(2))

    def _chosen(self, important: Tensor, mask: Tensor | None, queries: int) -> Tensor:
        """(B, H, T, S) bool: the visible keys that are attended to."""
        ranked = important.detach().expand(-1, -1, queries, -1)
        if mask is None:
            return repeat_heads(highest(ranked, self.keep, last=self.last), self.heads)
        kept = highest(ranked.masked_fill(~mask, -torch.inf), self.keep, last=self.last)
        return repeat_heads(kept & mask, self.heads)

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 4 * self.heads * self.head_dim * length

    @property
    def scored_heads(self) -> int:
        return self.heads

    @property
    def cached_per_token(self) -> int:
        return 2 * self.kv_heads * self.head_dim
