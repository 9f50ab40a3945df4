"""Attention with sinusoids of relative positions."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.attention.eager import masked_softmax
from blocks.attention.projection import HeadProjection, projection_axes, score_scale
from blocks.attention.visibility import visibility
from blocks.base import Axis, Context, Heads, KeyValues, Linear, Mixer, Site
from registry import Capabilities, Positive, PositiveFloat, Probability, register


@register("relative")
class RelativeAttention(Mixer):
    """softmax(((q_i + content_bias) k_j + (q_i + position_bias) r(s_ij)) * scale) v, s_ij being the sinusoids of i - j.

    Args:
        heads: number of heads.
        head_dim: width of each head; null: dim / heads.
        scale: factor on the scores; null: 1 / sqrt(head_dim).
        dropout: probability of dropping an attention weight during training.
    """

    paper = "Dai et al., 2019, arXiv:1901.02860, section 3.3"
    formula = "A_h = softmax(scale * ((q_h + u_h) k_h^T + (q_h + w_h) r_h^T)) v_h; y = out([A_1, ..., A_H])"
    outputs = ("out",)
    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}), ordered=True)

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        head_dim: Positive | None = None,
        scale: PositiveFloat | None = None,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        if site.dim % 2:
            raise ValueError(f"dim={site.dim} must be even, as half of the sinusoids are sines")
        self.heads, self.head_dim, self.causal = heads, head_dim or site.head_dim(heads), site.causal
        self.dim, self.dropout = site.dim, dropout
        self.scale = score_scale(site, scale, self.head_dim, grows=head_dim is None)
        self.q = HeadProjection(site, site.dim, heads, self.head_dim, bias=False)
        self.k = HeadProjection(site, site.dim, heads, self.head_dim, bias=False)
        self.v = HeadProjection(site, site.dim, heads, self.head_dim, bias=False)
        self.r = HeadProjection(site, site.dim, heads, self.head_dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, self.head_dim))
        self.position_bias = nn.Parameter(torch.zeros(heads, self.head_dim))
        self.out = Linear(site, heads * self.head_dim, site.dim, bias=False)

    def constants(self) -> Mapping[str, float]:
        return {"content_bias": 0.0, "position_bias": 0.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Heads(self.heads, self.head_dim, keys=self.heads)
        one, writes = Heads(self.heads, 1, keys=self.heads), Heads(self.heads, self.head_dim, self.heads, zero_new=True)
        biases = {"content_bias": (one, None), "position_bias": (one, None)}
        return {**projection_axes(("q", "k", "v", "r"), heads), **biases, "out.weight": (None, writes)}

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        visibility(context, causal=self.causal)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)  # (B, H, T, K)
        if (state := context.state("mixer", KeyValues)) is not None:
            k, v = state.append(k, v)  # (B, H, S, K)
        content = (q + self.content_bias[:, None]) @ k.transpose(-2, -1)  # (B, H, T, S)
        every = context.every_distance()  # (T + S - 1,)
        waves = context.once(("relative sinusoids", self.dim), lambda: _sinusoids(-every, self.dim))
        positions = (q + self.position_bias[:, None]) @ self.r(waves[None].to(x.dtype)).transpose(-2, -1)
        rows = context.distances() - every[:1]  # (T, S): the place of each distance among all of them
        scores = (content + positions.gather(-1, rows.expand(*q.shape[:2], *rows.shape))) * self.scale
        mask = visibility(context, causal=self.causal).mask()
        weights = masked_softmax(scores, mask)
        y = F.dropout(weights, self.dropout if self.training else 0.0) @ v
        return self.out(y.transpose(1, 2).flatten(2))

    def flops_per_token(self, length: int) -> float:
        inner = self.heads * self.head_dim
        linear = sum(2 * one.in_features * one.out_features for one in (self.q, self.k, self.v, self.out))
        distances = 2 * length - 1
        return linear + 4 * inner * length + 2 * inner * distances + 2 * self.dim * inner * distances / length

    @property
    def cached_per_token(self) -> int:
        return 2 * self.heads * self.head_dim


def _sinusoids(positions: Tensor, dim: int) -> Tensor:
    """(N,) -> (N, dim): sines, then cosines, of frequencies 10000^(-2i / dim)."""
    frequencies = 10000.0 ** (-torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim)
    angles = positions[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
