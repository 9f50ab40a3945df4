"""An index of blocks of keys."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from blocks.attention.key_blocks import KeyBlocks, key_blocks
from blocks.attention.key_selector import Choice, KeySelector, choice_of, highest, parts_of_queries
from blocks.attention.projection import HeadProjection, projection_axes
from blocks.attention.visibility import Visibility
from blocks.base import (
    AttentionPositions,
    Axis,
    Context,
    Factory,
    Heads,
    Intermediate,
    KeyValues,
    Norm,
    Site,
    described,
)
from blocks.base.input_checks import check_inputs
from blocks.norms.rms import RMSNorm
from blocks.positions.rotary import RotaryPositions
from blocks.recurrent.base import RecurrentState, rows_of
from blocks.recurrent.convolution import short_convolution
from blocks.selectors.indexer import INDEX, index_scores
from registry import Capabilities, Positive, register


@register("block_indexer")
class BlockIndexer(KeySelector):
    """Choose whole blocks of consecutive keys: those with the highest scores in an index of their means.

    The keys of a text are cut into blocks from its beginning. Keys of blocks that a query does not see whole, such as
    the last one, are always attended to. The choice is a mask of all scores, as that of ``indexer``. It has no loss:
    its parameters stay as they are.

    Args:
        heads: number of heads of the index, which share one key head.
        head_dim: width of each; null: dim / heads.
        block: number of keys of a block; null: a 64th of ``max_length``, at least 2.
        keep: number of keys in the chosen blocks, a multiple of ``block``; null: an eighth of ``max_length``, rounded
            up to whole blocks.
        rotary_dim: width of the part of queries and keys, the first channels, with positions; a block has the position
            of its first key; null: ``head_dim``.
        positions: positions applied to that part.
        norm: norm of the queries, and of the means of the keys.
        ties: of blocks with equal scores choose the last, or any, as PyTorch's top-k does; then the choice can depend
            on padding and on the cache.
    """

    paper = "Qwen Team, 2026 (Qwen4-Exp); blocks: Yuan et al., 2025, arXiv:2502.11089"
    formula = (
        "k_b = norm(1 / n * sum_(s ∈ b) k(x_s)); I_(t b) = sum_h relu(norm(q_h(x_t))^T k_b) / sqrt(K); chosen(t) = "
        '"the keys of" top_k(I_t)'
    )
    intermediates = described(
        index_q=INDEX["index_q"],
        index_k=Intermediate(
            "The keys of the index: at the last token of each block, the mean of the block's keys.",
            ("key", "channel"),
            "K_I",
            ("input",),
        ),
        chosen_keys=Intermediate(
            "A query attends to the blocks of keys that fit it best, and to those that it does not see whole.",
            ("token", "key"),
            "",
            ("index_q", "index_k"),
        ),
    )
    expected_failures: ClassVar[Mapping[str, str]] = {
        "every_stored_setting_has_an_effect": "with four heads no blocks have equal scores, so that ties has none",
        "key_selector/block_indexer/bidirectional[block=1]: token_order_matters_only_if_declared": "a block is a token",
        "key_selector/block_indexer/bidirectional[block=3]: token_order_matters_only_if_declared": "all keys are kept",
    }
    capabilities = Capabilities(
        places=frozenset({"causal", "bidirectional"}), positions=frozenset({"rotation"}), prefix=False, ordered=True
    )

    def __init__(
        self,
        site: Site,
        query_dim: int,
        *,
        heads: Positive = 4,
        head_dim: Positive | None = None,
        block: Positive | None = None,
        keep: Positive | None = None,
        rotary_dim: Positive | None = None,
        positions: Factory[AttentionPositions] = RotaryPositions,
        norm: Factory[Norm] = RMSNorm,
        ties: Literal["last", "any"] = "last",
    ) -> None:
        super().__init__(site)
        self.layer, self.heads = site.layer, heads
        self.head_dim = head_dim or site.head_dim(heads)
        self.block = block or max(2, site.max_length // 64)
        self.keep = keep or -(-site.max_length // (8 * self.block)) * self.block
        if self.keep % self.block:
            raise ValueError(f"keep={self.keep} is not a multiple of block={self.block}; change one of them")
        self.rotary_dim = rotary_dim or self.head_dim
        if self.rotary_dim > self.head_dim:
            raise ValueError(f"rotary_dim={rotary_dim} is more than head_dim={self.head_dim}")
        self.positions = positions(site.resized(self.rotary_dim, heads))
        self.q = HeadProjection(site, query_dim, heads, self.head_dim, bias=False)
        self.k = HeadProjection(site, site.dim, 1, self.head_dim, bias=False)
        self.q_norm, self.k_norm = norm(site.resized(self.head_dim)), norm(site.resized(self.head_dim))
        self.last = ties == "last"
        self.requires_grad_(False)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Heads(self.heads, self.head_dim, keys=self.heads)
        return {**projection_axes(("q",), heads), "k.weight": (None, None)}

    def prepare(self, context: Context) -> None:
        check_inputs(self, context)
        rows_of(context)
        self.positions.prepare(context)
        self.positions.prepare(self._begins(context))

    def forward(
        self, x: Tensor, queries: Tensor, visible: Visibility, context: Context, window: int | None = None
    ) -> Choice:
        with torch.no_grad():
            keys = self._choose(x, queries, visible, context, context.cached_window(window))
        context.shared[choice_of(context, self.layer)] = keys
        return Choice(keys)

    def _choose(
        self, x: Tensor, queries: Tensor, visible: Visibility, context: Context, cached_window: int | None
    ) -> Tensor | None:
        """(B, 1, T, S) bool, the chosen keys; None: all of them."""
        k = self._means(x, context)
        state = context.state("index", lambda: KeyValues(cached_window))
        if state is not None:
            k, _ = state.append(k, k[..., :0])  # (B, 1, S, K), with those of earlier tokens
        if visible.keys <= self.keep and not self.recording:
            return None
        q = self._placed(self.q_norm(self.q(queries)), context)  # (B, H, T, K)
        self.record(index_q=q, index_k=k[:, 0])
        blocks = key_blocks(context, self.block, visible.keys, cached_window)
        scale = q.new_full((1, 1, 1, 1), self.head_dim**-0.5)
        found: list[Tensor] = []
        for first, last, mask in parts_of_queries(visible, q.shape[0] * self.heads):
            scores = index_scores(q[:, :, first:last], k, scale)[:, None]  # (B, 1, T, S), those at ends of blocks count
            found.append(
                self._best(scores, blocks, torch.ones_like(scores, dtype=torch.bool) if mask is None else mask)
            )
        keys = torch.cat(found, dim=2)
        self.record(chosen_keys=keys[:, 0].to(x.dtype))
        return keys

    def _means(self, x: Tensor, context: Context) -> Tensor:
        """(B, 1, T, K): at the last token of each block, the normalised mean of its keys, with positions."""
        rows, state = rows_of(context), context.state("recent_index", RecurrentState)
        keys = rows.arrange(self.k(x)[:, 0])  # (B, T, K)
        kernel = keys.new_full((self.head_dim, self.block), 1 / self.block)
        means = rows.restore(short_convolution(keys, kernel, rows, state))
        return self._placed(self.k_norm(means)[:, None], self._begins(context))

    def _begins(self, context: Context) -> Context:
        """The same tokens at the positions of the first tokens of the blocks that end with them."""

        def make() -> Context:
            return replace(context, positions=(context.positions - self.block + 1).clamp(min=0), shared={})

        return context.once(("begins of blocks", self.block), make)

    def _placed(self, x: Tensor, context: Context) -> Tensor:
        """(B, H, T, K) with positions on the first channels."""
        turned = self.positions.rotate(x[..., : self.rotary_dim], context)
        return torch.cat([turned, x[..., self.rotary_dim :]], dim=-1)

    def _best(self, scores: Tensor, blocks: KeyBlocks, seen: Tensor) -> Tensor:
        """(B, 1, T, S): the keys of the blocks with the highest scores, and all keys of blocks that are not seen whole.

        Args:
            scores: (B, 1, T, S), at the last key of each block.
            blocks: of the keys.
            seen: (B or 1, 1, T or 1, S) bool, the keys that could be chosen.
        """
        seen = seen.expand_as(scores)
        whole = blocks.whole & blocks.at_last(seen) & blocks.at_first(seen)
        ends = whole & blocks.last_keys
        count = min(self.keep // self.block, scores.shape[-1])
        if self.last or torch.compiler.is_compiling():
            best = highest(scores.masked_fill(~ends, -torch.inf), count, last=self.last)
        else:
            best = _highest_among(scores, ends, count)
        return seen & (~whole | blocks.at_last(best & ends))

    @property
    def cached_per_token(self) -> int:
        return self.head_dim

    @property
    def cached_per_sequence(self) -> int:
        return (self.block - 1) * self.head_dim

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 2 * self.heads * self.head_dim * length


def _highest_among(scores: Tensor, among: Tensor, count: int) -> Tensor:
    """(..., S) -> bool, True for the ``count`` highest of some scores, of equal ones as by a top-k of those alone.

    Args:
        scores: (..., S).
        among: (..., S) bool, those to choose from.
        count: how many to choose, or all if there are fewer.
    """
    order = (~among).long().argsort(dim=-1, stable=True)
    sizes, sorted_scores = among.sum(-1), scores.gather(-1, order)
    found = torch.zeros_like(among)
    for size in range(1, (int(sizes.max()) if sizes.numel() else 0) + 1):
        rows = sizes == size
        best = sorted_scores[rows][:, :size].topk(min(count, size)).indices
        found[rows] = torch.zeros_like(found[rows]).scatter_(-1, best, True)
    return torch.zeros_like(among).scatter(-1, order, found)
