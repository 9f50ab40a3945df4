"""Blocks of consecutive keys, which begin at the beginning of each text."""

from typing import NamedTuple

import torch
from torch import Tensor

from blocks.attention.visibility import document_ranges
from blocks.base import Context


class KeyBlocks(NamedTuple):
    """The block of each of S keys; all (B or 1, 1, 1, S).

    Attributes:
        first: int, index of the first key of its block; 0 if that is not among the keys.
        last: int, index of the last one; 0 if that is not among the keys.
        whole: bool, whether all keys of its block are there.
        last_keys: bool, whether it is the last of a whole block.
    """

    first: Tensor
    last: Tensor
    whole: Tensor
    last_keys: Tensor

    def at_first(self, x: Tensor) -> Tensor:
        """(B, 1, T, S) -> the same shape: at each key the value at the first key of its block."""
        return x.gather(-1, self.first.expand_as(x))

    def at_last(self, x: Tensor) -> Tensor:
        """(B, 1, T, S) -> the same shape: at each key the value at the last key of its block."""
        return x.gather(-1, self.last.expand_as(x))


def key_blocks(context: Context, size: int, keys: int, cached_window: int | None) -> KeyBlocks:
    """The blocks of ``size`` keys each, padding not counted; computed once per forward.

    Args:
        context: of the forward.
        size: number of keys of a block.
        keys: S; they are the last ones of all cached and new tokens.
        cached_window: number of tokens that the cache keeps, on which ``keys`` depends; None: all.
    """
    return context.once(("key blocks", size, cached_window), lambda: _key_blocks(context, size, keys))


def _key_blocks(context: Context, size: int, keys: int) -> KeyBlocks:
    every, device = context.offset + context.length, context.positions.device
    counted = context.attention_mask if context.fixed is None else context.fixed.tokens
    if counted is None:
        counted = torch.ones(1, every, dtype=torch.bool, device=device)
    before = counted.long().cumsum(dim=1) - counted.long()  # number of tokens before each, padding not counted
    place = before
    if context.documents is not None:
        place = before - before.expand_as(context.documents).gather(1, document_ranges(context.documents)[0])
    order = (~counted).long().argsort(dim=1, stable=True)  # index of the token with each number
    begin = before - place % size  # number of the first token of each block
    end = begin + size - 1
    total = counted.sum(dim=1, keepdim=True)
    order = order.expand(begin.shape[0], -1)
    first, last = order.gather(1, begin.clamp(max=every - 1)), order.gather(1, end.clamp(max=every - 1))
    whole = counted & (end < total)
    if context.documents is not None:
        whole = whole & (context.documents.gather(1, last) == context.documents)
    first, last, dropped = first - (every - keys), last - (every - keys), every - keys
    whole = (whole[:, dropped:]) & (first[:, dropped:] >= 0)
    first, last = first[:, dropped:].clamp(min=0), last[:, dropped:].clamp(min=0)
    index = torch.arange(keys, device=device)
    found = first, last, whole, whole & (last == index)
    first, last, whole, last_keys = (x[:, None, None] for x in found)
    return KeyBlocks(first, last, whole, last_keys)
