"""Blocks of queries and the keys that they can see, for attention that never has all scores at once."""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.attention.visibility import Visibility
from blocks.base import DistanceBias

QUERIES = 128
"""Queries in a block, of which fewer waste less on keys that only some of them see; twice as many, for which the fused
kernel is faster, where a query sees most keys before it."""
APART = 1.25
"""Rows of a batch are computed one by one if together they would see more than this many times as many keys."""


class QueryBlock(NamedTuple):
    """Some rows of a batch, some of their queries, and a range of keys outside of which they see none.

    Attributes:
        rows: of the batch.
        queries: first and last, excluded.
        keys: first and last, excluded.
    """

    rows: slice
    queries: tuple[int, int]
    keys: tuple[int, int]


def query_blocks(visible: Visibility, batch: int) -> Iterator[QueryBlock]:
    """All blocks of queries that see any key."""
    first, last = visible.ranges()
    size = 2 * QUERIES if visible.window is None and visible.documents is None else QUERIES
    short = -visible.queries % size
    starts = F.pad(first, (0, short), value=visible.keys).view(len(first), -1, size).amin(2)  # (B or 1, blocks)
    ends = F.pad(last, (0, short), value=0).view(len(last), -1, size).amax(2)
    of_blocks: list[list[tuple[int, int]]] = cast("Any", torch.stack([starts, ends], dim=2).transpose(0, 1)).tolist()
    for index, ranges in enumerate(of_blocks):
        queries = index * size, min((index + 1) * size, visible.queries)
        seen = [(begin, end) for begin, end in ranges if begin < end]
        if not seen:
            continue
        begin, end = min(begin for begin, _ in seen), max(end for _, end in seen)
        if (end - begin) * len(ranges) <= APART * sum(end - begin for begin, end in seen):
            yield QueryBlock(slice(0, batch), queries, (begin, end))
            continue
        for row, (begin, end) in enumerate(ranges):
            if begin < end:
                yield QueryBlock(slice(row, row + 1), queries, (begin, end))


class Additive:
    """What is added to the scores of a block: the bias, and minus infinity where a query does not see a key.

    Queries are in reversed order: then what depends on distances only is a view of one value for each distance.
    """

    def __init__(self, visible: Visibility, bias: Tensor | None, dtype: torch.dtype) -> None:
        """Prepare for all blocks.

        Args:
            visible: what the queries see.
            bias: (1, H, T+S-1), see :class:`DistanceBias`; None: no bias.
            dtype: of the result.
        """
        self.visible = visible
        count = visible.queries + visible.keys - 1
        distance = torch.arange(1 - visible.keys, visible.queries, device=visible.device)
        hidden = torch.zeros(count, dtype=torch.bool, device=visible.device)
        if visible.causal and visible.prefix is None:
            hidden |= distance > 0
        if visible.window is not None:
            hidden |= distance.abs() >= visible.window
        values = torch.zeros(1, 1, count, dtype=dtype, device=visible.device) if bias is None else bias.to(dtype)
        self.biased = bias is not None
        self.values = values.masked_fill(hidden, -torch.inf).contiguous()

    def __call__(self, block: QueryBlock) -> Tensor | None:
        """(B or 1, H or 1, T, S) of the block, or None where nothing is added."""
        (first, last), (begin, end) = block.queries, block.keys
        if not self.biased and self._all_seen(block):
            return None
        part = DistanceBias(self.values).rows(first, last, self.visible.queries).values
        part = part[..., begin : last - first - 1 + end]
        added = DistanceBias(part).reversed_scores(end - begin)
        if not self.visible.varies:
            return added
        with_prefix = self.visible.prefix is not None  # which is an exception from causality; otherwise added has that
        mask = self.visible.part(block.rows, block.queries, block.keys, by_distance=with_prefix)
        if mask is None or bool(mask.all()):
            return added
        return added.masked_fill(~mask.flip(2), -torch.inf)

    def _all_seen(self, block: QueryBlock) -> bool:
        """Whether each query of the block sees each of its keys, as far as distances decide; padding may hide some."""
        (first, last), (begin, end), visible = block.queries, block.keys, self.visible
        offset = visible.keys - visible.queries
        late = visible.causal and end - 1 > first + offset
        far = visible.window is not None and max(last - 1 + offset - begin, end - 1 - first - offset) >= visible.window
        return not late and not far and not visible.varies
