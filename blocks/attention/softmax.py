"""Scaled dot-product attention with many heads."""

from typing import Annotated, Literal

from torch import Tensor, nn

from blocks.attention.backends import BACKENDS, Backend, choose
from blocks.attention.visibility import memory_visibility, visibility
from blocks.base import AttentionPositions, Context, Factory, KeyValues, Mixer, Norm, Site
from blocks.positions.none import NoAttentionPositions
from registry import Positive, PositiveFloat, Probability, Runtime, register

Projection = Literal["q", "k", "v", "out"]


@register("attention")
class MultiHeadAttention(Mixer):
    """softmax(q k^T * scale) v over ``heads`` heads, whose results are put side by side and projected back.

    One class for multi-head, grouped-query and multi-query attention; causal, bidirectional or cross by its site.

    Args:
        heads: number of query heads.
        kv_heads: number of key and value heads, a divisor of ``heads``; null: as many as ``heads``; 1: multi-query.
        head_dim: width of a head; null: the model's width over ``heads``.
        bias: biases in all projections, or a list of those that have one out of q, k, v, out.
        scale: factor on the scores before the softmax; null: 1 / sqrt(head_dim).
        window: a token sees only those closer than this many tokens, itself included; null: all.
        qk_norm: norm over each head of the queries and of the keys, before positions are applied.
        positions: how a score knows the distance of two tokens.
        dropout: share of the attention weights set to zero while training.
        backend: how it is computed; auto chooses the fastest that can, and all agree.
    """

    paper = (
        "Vaswani et al., 2017, arXiv:1706.03762; multi-query: Shazeer, 2019, arXiv:1911.02150; "
        "grouped-query: Ainslie et al., 2023, arXiv:2305.13245"
    )
    outputs = ("out",)

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        kv_heads: Positive | None = None,
        head_dim: Positive | None = None,
        bias: bool | tuple[Projection, ...] = False,
        scale: PositiveFloat | None = None,
        window: Positive | None = None,
        qk_norm: Factory[Norm] | None = None,
        positions: Factory[AttentionPositions] = NoAttentionPositions,
        dropout: Probability = 0.0,
        backend: Annotated[Backend, Runtime()] = "auto",
    ) -> None:
        super().__init__(site)
        self.heads, self.kv_heads = heads, kv_heads or heads
        if heads % self.kv_heads:
            raise ValueError(f"heads={heads} is not a multiple of kv_heads={kv_heads}")
        if head_dim is None and site.dim % heads:
            raise ValueError(f"dim={site.dim} is not a multiple of heads={heads}; change one of them or give head_dim")
        self.head_dim = head_dim or site.dim // heads
        self.cross, self.causal, self.window = site.memory_dim is not None, site.causal, window
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.dropout, self.attend = dropout, BACKENDS[choose(backend)]
        biased = ("q", "k", "v", "out") if bias is True else bias or ()
        inner, kv_inner, source = heads * self.head_dim, self.kv_heads * self.head_dim, site.memory_dim or site.dim
        self.q = nn.Linear(site.dim, inner, bias="q" in biased)
        self.k = nn.Linear(source, kv_inner, bias="k" in biased)
        self.v = nn.Linear(source, kv_inner, bias="v" in biased)
        self.out = nn.Linear(inner, site.dim, bias="out" in biased)
        head = site.resized(self.head_dim)
        self.q_norm = qk_norm(head) if qk_norm else None
        self.k_norm = qk_norm(head) if qk_norm else None
        self.positions = positions(head)

    def prepare(self, context: Context) -> None:
        if not self.cross:
            visibility(context, causal=self.causal, window=self.window)
            self.positions.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q = self._heads(self.q(x), self.q_norm)
        if self.cross:
            k, v = self._memory(context)
            visible = memory_visibility(context)
        else:
            q, (k, v) = self.positions.rotate(q, context), self._keys_values(x, context)
            visible = visibility(context, causal=self.causal, window=self.window)
        y = self.attend(q, k, v, visible, self.scale, self.dropout if self.training else 0.0)  # (B, H, T, K)
        return self.out(y.transpose(1, 2).flatten(2))

    def _keys_values(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        k = self.positions.rotate(self._heads(self.k(x), self.k_norm), context)
        v = self._heads(self.v(x))
        state = context.state("mixer", KeyValues)
        return (k, v) if state is None else state.append(k, v)

    def _memory(self, context: Context) -> tuple[Tensor, Tensor]:
        state = context.state("cross", KeyValues)
        if state is not None and state.keys is not None and state.values is not None:
            return state.keys, state.values
        if context.memory is None:
            raise ValueError("cross-attention needs the encoder's output, but the context has no memory")
        k, v = self._heads(self.k(context.memory), self.k_norm), self._heads(self.v(context.memory))
        return (k, v) if state is None else state.append(k, v)

    def _heads(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        x = x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)  # (B, H, T, K)
        return x if norm is None else norm(x)

    def flops_per_token(self, length: int) -> float:
        span = min(length, self.window) if self.window else length
        return super().flops_per_token(length) + 4 * self.heads * self.head_dim * span

    @property
    def cached_per_token(self) -> int:
        return 2 * self.kv_heads * self.head_dim
