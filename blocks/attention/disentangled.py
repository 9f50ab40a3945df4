"""Attention in which contents and relative positions have vectors of their own."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.attention.eager import masked_softmax
from blocks.attention.projection import HeadProjection, projection_axes, score_scale
from blocks.attention.visibility import visibility
from blocks.base import Axis, Context, Factory, Fixed, Heads, KeyValues, Linear, Mixer, Norm, Site
from registry import Capabilities, Positive, PositiveFloat, Probability, register

Projection = Literal["q", "k", "v", "out", "pos_k", "pos_q"]
Term = Literal["content_to_position", "position_to_content"]


@register("disentangled")
class DisentangledAttention(Mixer):
    """softmax((q_i k_j + q_i pos_k(r_ij) + k_j pos_q(r_ij)) * scale) v, r_ij: a vector of the distance i - j.

    Args:
        heads: number of heads.
        head_dim: width of each head; null: dim / heads.
        bias: biases in all projections, or a list of the projections that have one, out of q, k, v, out, pos_k, pos_q.
        terms: the terms of the scores that depend on positions.
        shared_projections: project the vectors of distances by k and q instead of projections of their own.
        buckets: number of vectors on each side, of which those beyond half of them stand for distances that grow
            logarithmically up to ``max_distance``; null: one for each distance below ``max_distance``.
        max_distance: distances from here on share the last vector.
        table_norm: norm of the vectors of distances; null: disabled.
        scale: factor on the scores; null: 1 / sqrt(head_dim * number of all terms).
        dropout: probability of dropping an attention weight during training.
    """

    paper = "He et al., 2020, arXiv:2006.03654; buckets and shared projections: He et al., 2021, arXiv:2111.09543"
    formula = "A_h = softmax(scale * (q_h k_h^T + q_h pos_k^T + pos_q k_h^T)) v_h; y = out([A_1, ..., A_H])"
    outputs = ("out",)
    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}), ordered=True)

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        head_dim: Positive | None = None,
        bias: bool | tuple[Projection, ...] = False,
        terms: tuple[Term, ...] = ("content_to_position", "position_to_content"),
        shared_projections: bool = False,
        buckets: Positive | None = None,
        max_distance: Positive = 128,
        table_norm: Factory[Norm] | None = None,
        scale: PositiveFloat | None = None,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        if not terms or len(set(terms)) < len(terms):
            raise ValueError(f"terms must name at least one term, each once, not {list(terms)}")
        if buckets is not None and not 1 < buckets // 2 < max_distance - 1:
            raise ValueError(
                f"buckets={buckets} must be at least 4, and half of them below max_distance={max_distance} - 1"
            )
        self.heads, self.head_dim, self.causal = heads, head_dim or site.head_dim(heads), site.causal
        self.terms, self.dropout, self.buckets, self.max_distance = terms, dropout, buckets, max_distance
        self.span = buckets or max_distance
        self.scale = score_scale(site, scale, self.head_dim * (1 + len(terms)), grows=head_dim is None)
        biased = ("q", "k", "v", "out", "pos_k", "pos_q") if bias is True else bias or ()

        def projection(name: str) -> HeadProjection:
            return HeadProjection(site, site.dim, heads, self.head_dim, bias=name in biased)

        self.q, self.k, self.v = projection("q"), projection("k"), projection("v")
        self.out = Linear(site, heads * self.head_dim, site.dim, bias="out" in biased)
        self.table = nn.Embedding(2 * self.span, site.dim)
        self.table_norm = table_norm(site) if table_norm else None
        own = {"content_to_position", "position_to_content"} & set(terms) if not shared_projections else set[str]()
        self.pos_k = projection("pos_k") if "content_to_position" in own else None
        self.pos_q = projection("pos_q") if "position_to_content" in own else None

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Heads(self.heads, self.head_dim, keys=self.heads)
        projections = projection_axes(("q", "k", "v", "pos_k", "pos_q"), heads)
        writes = Heads(self.heads, self.head_dim, keys=self.heads, zero_new=True)
        return {**projections, "out.weight": (None, writes), "table.weight": (Fixed(2 * self.span), None)}

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        visibility(context, causal=self.causal)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)  # (B, H, T, K)
        if (state := context.state("mixer", KeyValues)) is not None:
            k, v = state.append(k, v)  # (B, H, S, K)
        scores = (q @ k.transpose(-2, -1) + self._positional(q, k, context)) * self.scale  # (B, H, T, S)
        mask = visibility(context, causal=self.causal).mask()
        weights = masked_softmax(scores, mask)
        y = F.dropout(weights, self.dropout if self.training else 0.0) @ v
        return self.out(y.transpose(1, 2).flatten(2))

    def _positional(self, q: Tensor, k: Tensor, context: Context) -> Tensor:
        """(B, H, T, S): the terms of the scores that depend on positions."""
        key = ("distance vectors", self.buckets, self.max_distance)
        rows = context.once(key, lambda: self._rows(-context.distances()))  # (T, S)
        vectors = (self.table.weight if self.table_norm is None else self.table_norm(self.table.weight))[None]
        found: list[Tensor] = []
        if "content_to_position" in self.terms:
            by_row = q @ (self.k if self.pos_k is None else self.pos_k)(vectors).transpose(-2, -1)  # (B, H, T, R)
            found.append(by_row.gather(-1, rows.expand(*q.shape[:2], *rows.shape)))
        if "position_to_content" in self.terms:
            by_row = k @ (self.q if self.pos_q is None else self.pos_q)(vectors).transpose(-2, -1)  # (B, H, S, R)
            found.append(by_row.gather(-1, rows.T.expand(*k.shape[:2], *rows.T.shape)).transpose(-2, -1))
        return found[0] if len(found) == 1 else found[0] + found[1]

    def _rows(self, distances: Tensor) -> Tensor:
        """Distances, query minus key -> rows of the table."""
        if self.buckets is not None:
            half, far = self.buckets // 2, distances.abs()
            growth = torch.log(far.clamp(min=half) / half) / math.log((self.max_distance - 1) / half)
            shared = (torch.ceil(growth * (half - 1)) + half).long() * distances.sign()
            distances = torch.where(far <= half, distances, shared)
        return (distances + self.span).clamp(0, 2 * self.span - 1)

    def flops_per_token(self, length: int) -> float:
        inner, rows = self.heads * self.head_dim, 2 * self.span
        table = len(self.terms) * (2 * inner * rows + 2 * rows * self.table.embedding_dim * inner / length)
        linear = sum(2 * one.in_features * one.out_features for one in (self.q, self.k, self.v, self.out))
        return linear + 4 * inner * length + table

    @property
    def cached_per_token(self) -> int:
        return 2 * self.heads * self.head_dim
