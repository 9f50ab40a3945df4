"""The block mask of FlexAttention: which blocks of scores it computes, and which scores in them."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from blocks.attention.visibility import Visibility

SIZE = 128
"""Queries and keys in a block, FlexAttention's default."""
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def block_mask(visible: Visibility) -> BlockMask | None:
    """The block mask for any number of heads, computed without a mask of all scores; None: every key is visible."""
    if visible.everything:
        return None
    some, whole = seen_blocks(visible)
    counts, indices = _ordered(some & ~whole)
    full_counts, full_indices = _ordered(whole)
    mask = BlockMask.from_kv_blocks(
        counts,
        indices,
        full_counts,
        full_indices,
        BLOCK_SIZE=SIZE,
        mask_mod=mask_mod(visible),
        seq_lengths=(visible.queries, visible.keys),
    )
    if visible.device.type == "cuda" and not torch.compiler.is_compiling():
        _let_blocks_vary(mask)
    return mask


def _let_blocks_vary(mask: BlockMask) -> None:
    """What is compiled with the mask serves any number of blocks, or it would be compiled again for the first other."""
    from torch._dynamo import maybe_mark_dynamic  # which imports for seconds

    for name in ("kv_num_blocks", "kv_indices", "q_num_blocks", "q_indices"):
        for tensor in (getattr(mask, name), getattr(mask, f"full_{name}")):
            maybe_mark_dynamic(tensor, list(range(2, tensor.dim())))


def seen_blocks(visible: Visibility) -> tuple[Tensor, Tensor]:
    """Blocks in which some scores are computed, and those in which all are, (B or 1, 1, blocks, blocks) bool each."""
    first, last = (_by_block(x) for x in visible.ranges())  # (B or 1, blocks, SIZE)
    blocks = torch.arange((visible.keys + SIZE - 1) // SIZE, device=visible.device)
    begin, end = blocks * SIZE, (blocks + 1) * SIZE
    some = (first.amin(2)[..., None] < end) & (last.amax(2)[..., None] > begin)
    whole = (first.amax(2)[..., None] <= begin) & (last.amin(2)[..., None] >= end) & visible.gapless()[..., None]
    return some[:, None], whole[:, None]


def _by_block(x: Tensor) -> Tensor:
    """(B, T) -> (B, blocks, SIZE); the last block repeats the last query."""
    blocks = torch.arange((x.shape[1] + SIZE - 1) // SIZE, device=x.device)
    queries = blocks[:, None] * SIZE + torch.arange(SIZE, device=x.device)
    return x[:, queries.clamp(max=x.shape[1] - 1)]


def mask_mod(visible: Visibility) -> MaskMod:
    """Whether a query sees a key, by row of the batch, head, query and key; it captures no numbers, only tensors."""
    if visible.plainly_causal:
        return lambda b, h, i, j: j <= i
    padding, documents, prefix = visible.padding, visible.documents, visible.prefix
    chosen = None if visible.chosen is None else visible.chosen[:, 0]
    of_queries = torch.empty(0)
    first, last = (x.to(torch.int32) for x in visible.ranges())
    batch = max([1, *(x.shape[0] for x in (padding, documents, prefix, chosen) if x is not None)])
    if documents is not None:
        documents, of_queries = (
            documents.expand(batch, -1),
            documents[:, visible.keys - visible.queries :].expand(batch, -1),
        )
    padding = None if padding is None else padding.expand(batch, -1)
    first, last = first.expand(batch, -1), last.expand(batch, -1)
    index = torch.arange(visible.keys - visible.queries, visible.keys, device=visible.device)

    def sees(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        row = b if batch > 1 else b * 0
        seen = (j >= first[row, i]) & (j < last[row, i])
        if padding is not None:
            seen = seen & padding[row, j]
        if documents is not None:
            seen = seen & (of_queries[row, i] == documents[row, j])
        if prefix is not None:
            seen = seen & ((j <= index[i]) | prefix[row, j])
        if chosen is not None:
            seen = seen & chosen[row, i, j]
        return seen

    return sees


def _ordered(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Number of chosen blocks in each row, and their indices before all others, int32 each."""
    indices = chosen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(-1).to(torch.int32), indices.to(torch.int32)
