"""Attention between blocks of tokens."""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.attention.eager import masked_softmax
from blocks.attention.projection import HeadProjection, projection_axes, score_scale
from blocks.base import Axis, Context, Heads, Linear, Mixer, Site
from registry import Capabilities, NonNegative, Positive, Probability, register

Projection = Literal["q", "k", "v", "out"]


@register("block_sparse")
class BlockSparseAttention(Mixer):
    """Attention of each block of tokens to itself, its neighbours, the first and the last block, and random blocks.

    The first and the last block attend to all tokens, and so do all blocks of a text of at most 5 + 2 * random blocks.
    In training, random blocks are drawn anew in each forward, for each head; in evaluation, each of them is the first
    block again, whose keys so count 1 + random times. Which block is the last depends on the length of the batch, so
    padding is not supported.

    Args:
        heads: number of heads.
        head_dim: width of each head; null: dim / heads.
        bias: biases in all projections, or a list of the projections that have one, out of q, k, v, out.
        block: number of tokens in a block.
        random: number of random blocks.
        dropout: probability of dropping an attention weight during training.
    """

    paper = "Zaheer et al., 2020, arXiv:2007.14062"
    formula = 'A_h = softmax(scale * q_h k_h^T "over the blocks in sight") v_h; y = out([A_1, ..., A_H])'
    outputs = ("out",)
    capabilities = Capabilities(places=frozenset({"bidirectional"}), padding=False, documents=False)
    expected_failures: ClassVar[Mapping[str, str]] = {
        "every_stored_setting_has_an_effect": "random blocks exist in texts of more than five blocks only",
        "mixer/block_sparse/bidirectional[block=1]: attends_exactly_its_window": (
            "texts of more than five blocks are attended to in part"
        ),
    }

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        head_dim: Positive | None = None,
        bias: bool | tuple[Projection, ...] = False,
        block: Positive = 64,
        random: NonNegative = 0,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        self.heads, self.head_dim = heads, head_dim or site.head_dim(heads)
        self.block, self.random, self.dropout = block, random, dropout
        self.scale = score_scale(site, None, self.head_dim, grows=head_dim is None)
        biased = ("q", "k", "v", "out") if bias is True else bias or ()
        self.q = HeadProjection(site, site.dim, heads, self.head_dim, bias="q" in biased)
        self.k = HeadProjection(site, site.dim, heads, self.head_dim, bias="k" in biased)
        self.v = HeadProjection(site, site.dim, heads, self.head_dim, bias="v" in biased)
        self.out = Linear(site, heads * self.head_dim, site.dim, bias="out" in biased)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Heads(self.heads, self.head_dim, keys=self.heads)
        writes = Heads(self.heads, self.head_dim, keys=self.heads, zero_new=True)
        return {**projection_axes(("q", "k", "v"), heads), "out.weight": (None, writes)}

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)  # (B, H, T, K)
        scores = q @ k.transpose(-2, -1) * self.scale
        index = torch.arange(x.shape[1], device=x.device) // self.block  # (T,): the block of each token
        count = math.ceil(x.shape[1] / self.block)
        if count > 5 + 2 * self.random:
            scores = scores + self._bias(count, x)[:, index[:, None], index]
        weights = masked_softmax(scores, None)
        y = F.dropout(weights, self.dropout if self.training else 0.0) @ v
        return self.out(y.transpose(1, 2).flatten(2))

    def _bias(self, count: int, x: Tensor) -> Tensor:
        """(1 or H, count, count): the bias of the scores of two blocks, the dtype's minimum where they are apart."""
        blocks = torch.arange(count, device=x.device)
        middle = (blocks > 0) & (blocks < count - 1)
        seen = ((blocks[:, None] - blocks).abs() < 2) | ~middle | ~middle[:, None]
        bias = torch.zeros(1, count, count, device=x.device, dtype=x.dtype)
        if self.random and self.training:
            drawn = torch.rand(self.heads, count, count, device=x.device).masked_fill(seen, -1.0)
            seen = seen | torch.zeros_like(drawn, dtype=torch.bool).scatter(-1, drawn.topk(self.random).indices, True)
        elif self.random:
            bias = bias + math.log(1 + self.random) * (middle[:, None] & (blocks == 0)).to(x.dtype)
        return bias.masked_fill(~seen, torch.finfo(x.dtype).min)

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 4 * self.heads * self.head_dim * length
