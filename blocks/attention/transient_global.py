"""Local attention beside summaries of all parts of the text."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.attention.eager import attention_scores, masked_softmax
from blocks.attention.projection import HeadProjection, projection_axes, score_scale
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import score_bias, visibility
from blocks.base import AttentionPositions, Axis, Context, Factory, Heads, Linear, Mixer, Norm, Site
from blocks.norms.rms import RMSNorm
from blocks.positions.none import NoAttentionPositions
from blocks.positions.relative import RelativeBias
from registry import Capabilities, NonNegativeFloat, Positive, Probability, register


@register("transient_global")
class TransientGlobalAttention(Mixer):
    """Attention to the tokens nearby and, by the same softmax, to a summary of each block of tokens.

    A summary is norm(sum of the block's inputs), with keys and values of the same projections. Tokens after the last
    full block belong to it. Scores of summaries have a bias of the distance in blocks.

    Args:
        heads: number of heads.
        head_dim: width of each head; null: dim / heads.
        scale: factor on the scores; null: 1 / sqrt(head_dim).
        radius: attend to tokens at most this many tokens away.
        block: number of tokens of a summary, 16 in the paper.
        norm: norm of the summaries.
        buckets: number of buckets of distances in blocks, as in the positions t5.
        max_distance: distances of at least this many blocks share the last bucket.
        positions: positions that are added to the scores of tokens.
        dropout: probability of dropping an attention weight during training.
    """

    paper = "Guo et al., 2021, arXiv:2112.07916, section 3.1.2"
    formula = "A_h = softmax(scale * q_h [k_h, g_h]^T + bias) [v_h, u_h]; y = out([A_1, ..., A_H])"
    outputs = ("out",)
    capabilities = Capabilities(
        places=frozenset({"bidirectional"}), documents=False, ordered=True, positions=frozenset({"bias"})
    )

    expected_failures: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("mixer/transient_global/bidirectional[block=3]: token_order_matters_only_if_declared",),
        "all tokens of the text are in one block",
    )

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        head_dim: Positive | None = None,
        scale: NonNegativeFloat | None = None,
        radius: Positive = 127,
        block: Positive = 2,
        norm: Factory[Norm] = RMSNorm,
        buckets: Positive = 32,
        max_distance: Positive = 128,
        positions: Factory[AttentionPositions] = NoAttentionPositions,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        self.heads, self.head_dim = heads, head_dim or site.head_dim(heads)
        self.near, self.block, self.dropout = radius + 1, block, dropout
        self.scale = score_scale(site, scale, self.head_dim, grows=head_dim is None)
        self.q = HeadProjection(site, site.dim, heads, self.head_dim, bias=False)
        self.k = HeadProjection(site, site.dim, heads, self.head_dim, bias=False)
        self.v = HeadProjection(site, site.dim, heads, self.head_dim, bias=False)
        self.out = Linear(site, heads * self.head_dim, site.dim, bias=False)
        self.norm = norm(site)
        self.side = RelativeBias(site.resized(self.head_dim, heads), buckets=buckets, max_distance=max_distance)
        self.positions = positions(site.resized(self.head_dim, heads))

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Heads(self.heads, self.head_dim, keys=self.heads)
        writes = Heads(self.heads, self.head_dim, keys=self.heads, zero_new=True)
        return {**projection_axes(("q", "k", "v"), heads), "out.weight": (None, writes)}

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        visibility(context, causal=False, window=self.near)
        self.positions.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        blocks, visible = self._blocks(context)  # (B or 1, T) and (B or 1, G)
        members = (blocks[..., None] == torch.arange(visible.shape[1], device=x.device)).to(x.dtype)  # (B or 1, T, G)
        summaries = self.norm(members.transpose(1, 2) @ x)  # (B, G, D)
        q, k, v = self.q(x), self.k(x), self.v(x)  # (B, H, T, K)
        side_k, side_v = self.k(summaries), self.v(summaries)  # (B, H, G, K)
        scores = attention_scores(q, k, Scoring(self.scale, bias=score_bias(self.positions, context)))
        mask = visibility(context, causal=False, window=self.near).mask()
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        distances = torch.arange(visible.shape[1], device=x.device) - blocks[..., None]
        side_bias = self.side.table(self.side.bucket(distances)).permute(0, 3, 1, 2).to(scores.dtype)
        side = q @ side_k.transpose(-2, -1) * self.scale + side_bias  # (B, H, T, G)
        side = side.masked_fill(~visible[:, None, None], torch.finfo(scores.dtype).min)
        weights = masked_softmax(torch.cat([scores, side], dim=-1), None)
        weights = F.dropout(weights, self.dropout if self.training else 0.0)
        y = weights @ torch.cat([v, side_v], dim=2)
        return self.out(y.transpose(1, 2).flatten(2))

    def _blocks(self, context: Context) -> tuple[Tensor, Tensor]:
        """The block of each token, (B or 1, T), -1 for padding and without full blocks; which are full, (B or 1, G)."""

        def make() -> tuple[Tensor, Tensor]:
            full, mask = context.lengths() // self.block, context.attention_mask  # (B or 1, 1)
            index = torch.arange(context.length, device=full.device)[None] if mask is None else mask.cumsum(1) - 1
            blocks = torch.minimum(index // self.block, full - 1)
            blocks = blocks if mask is None else torch.where(mask, blocks, -1)
            return blocks, torch.arange(context.length // self.block, device=full.device) < full

        return context.once(("summarised blocks", self.block), make)

    def flops_per_token(self, length: int) -> float:
        inner, summaries = self.heads * self.head_dim, length // self.block
        dim = self.q.in_features
        side = (4 * dim * inner + 2 * dim * length) * summaries / length
        return 8 * dim * inner + side + 4 * inner * (length + summaries)

    @property
    def scored_heads(self) -> int:
        return self.heads
