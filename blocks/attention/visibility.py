"""Masks and biases of attention scores."""

from typing import NamedTuple

import torch
from torch import Tensor

from blocks.base import AttentionPositions, Context


class Visibility(NamedTuple):
    """The keys that each query attends to.

    Attributes:
        mask: (B or 1, 1, T, S) or (B, 1, 1, S) bool, True where a query attends to a key; None: no mask.
        causal: query t attends to keys 0..t of as many keys as queries, which some kernels do without a mask.
        padding: whether padding is masked, so that a query may have no key to attend to.
    """

    mask: Tensor | None
    causal: bool
    padding: bool = True

    def full(self, queries: Tensor) -> Tensor | None:
        """The mask combined with ``causal``, for queries (B, H, T, K); None: no mask."""
        if not self.causal:
            return self.mask
        length = queries.shape[2]
        return torch.ones(1, 1, length, length, dtype=torch.bool, device=queries.device).tril()


def visibility(context: Context, *, causal: bool, window: int | None = None) -> Visibility:
    """Self-attention: padding, documents, causality, the prefix and the window; computed once per forward."""
    return context.once(("visibility", causal, window), lambda: _visibility(context, causal, window))


def memory_visibility(context: Context) -> Visibility:
    """Cross-attention: all of the memory but padding."""
    mask = context.memory_mask
    return Visibility(None if mask is None else mask[:, None, None, :], causal=False)


def score_bias(positions: AttentionPositions, context: Context) -> Tensor | None:
    """Sum of the biases of a mixer's own positions and of the stack's, (B or 1, H, T, S) float32; None: no bias."""
    own, shared = positions.bias(context), context.bias
    if own is None or shared is None:
        return shared if own is None else own
    return own + shared


def _visibility(context: Context, causal: bool, window: int | None) -> Visibility:
    length, keys = context.length, context.offset + context.length
    if window is not None and window >= keys:
        window = None
    parts: list[Tensor] = []
    if context.attention_mask is not None:
        parts.append(context.attention_mask[:, None, None, :])
    if context.documents is not None:
        parts.append((context.documents[:, :, None] == context.documents[:, None, :])[:, None])
    plainly_causal = causal and window is None and context.offset == 0 and context.prefix is None and not parts
    if ((causal and length > 1) or window is not None) and not plainly_causal:
        parts.append(_band(context, causal, window))
    mask: Tensor | None = None
    for part in parts:
        mask = part if mask is None else mask & part
    # not Visibility(mask, condition): with a dynamic length, torch.compile would pass a symbol as a kernel's is_causal
    if plainly_causal and length > 1:
        return Visibility(mask, True)
    return Visibility(mask, False, padding=context.attention_mask is not None)


def _band(context: Context, causal: bool, window: int | None) -> Tensor:
    """(B or 1, 1, T, S): the keys that are not too late, unless they are in the prefix, and not too far away."""
    distance = context.distances()  # (T, S)
    near = None if window is None else (distance.abs() < window)[None, None]
    if not causal:
        assert near is not None
        return near
    seen = (distance <= 0)[None, None]
    if context.prefix is not None:
        seen = seen | context.prefix[:, None, None, :]
    return seen if near is None else seen & near
