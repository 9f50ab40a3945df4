"""Attention of a block of queries in tiles of keys, step by step: for options that no fused kernel has."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from blocks.attention.query_blocks import QueryBlock

SCORES = 2**18
"""Scores in a tile: as many as a processor's cache holds; 64 times as many on other devices, whose calls cost more."""
BOUND = 40.0
"""The largest softcap whose scores are exponentiated without subtracting their maximum first."""


class TileOptions(NamedTuple):
    """What is done with the scores of a tile.

    Attributes:
        scale: factor on the scores.
        softcap: bound on the scores; None: disabled.
        added: bias and mask of a block, with queries in reversed order.
        dropped: factors of a block on its attention weights, 0 or 1 / (1 - dropout); None: no dropout.
    """

    scale: float
    softcap: float | None
    added: Callable[[QueryBlock], Tensor | None]
    dropped: Callable[[QueryBlock, tuple[int, ...]], Tensor] | None


def tiles(block: QueryBlock, q: Tensor) -> Iterator[tuple[QueryBlock, slice]]:
    """Parts of a block of queries (b, H, t, K) with some of its keys, and the place of these keys in the block."""
    begin, end = block.keys
    most = SCORES if q.is_cpu else 64 * SCORES
    width = max(1, most // max(1, q.shape[0] * q.shape[1] * q.shape[2]))
    for start in range(begin, end, width):
        stop = min(start + width, end)
        yield block._replace(keys=(start, stop)), slice(start - begin, stop - begin)


def attend_in_tiles(q: Tensor, k: Tensor, v: Tensor, block: QueryBlock, options: TileOptions) -> tuple[Tensor, Tensor]:
    """Output and log of the sum of exponentiated scores of a block.

    Args:
        q: (b, H, t, K) in reversed order.
        k: (b, G, s, K).
        v: (b, G, s, K').
        block: which they are.
        options: what is done with the scores.

    Returns:
        (b, H, t, K') and (b, H, t); the latter is 0 for a query that sees no key.
    """
    grouped = _grouped(q, k)
    unbounded = options.softcap is None or options.softcap > BOUND
    maximum = q.new_full(q.shape[:3], -torch.inf) if unbounded else None
    total, y = q.new_zeros(q.shape[:3]), q.new_zeros(*q.shape[:3], v.shape[-1])
    for tile, keys in tiles(block, q):
        scores = (_product(grouped, k[:, :, keys]) * options.scale).view(*q.shape[:3], -1)
        if options.softcap is not None:
            scores = scores.div_(options.softcap).tanh_().mul_(options.softcap)
        added = options.added(tile)
        scores = scores if added is None else scores.add_(added)
        if maximum is not None:
            larger = torch.maximum(maximum, scores.amax(-1))
            shift = larger.masked_fill(larger == -torch.inf, 0.0)
            shrink = (maximum - shift).exp_()
            total, y, maximum = total * shrink, y * shrink[..., None], larger
            scores = scores.sub_(shift[..., None])
        weights = scores.exp_()
        total += weights.sum(-1)
        if options.dropped is not None:
            weights *= options.dropped(tile, tuple(weights.shape))
        y += _of_values(weights, v[:, :, keys])
    seen = total > 0
    log = total.log() if maximum is None else total.log() + maximum
    return y / total.clamp(min=torch.finfo(y.dtype).tiny)[..., None], torch.where(seen, log, 0.0)


class Gradients(NamedTuple):
    """Gradients of a block; None where they are not asked for.

    Attributes:
        q: (b, H, t, K) in reversed order.
        k: (b, G, s, K).
        v: (b, G, s, K').
        bias: (H, t+s-1) by distance.
    """

    q: Tensor | None
    k: Tensor | None
    v: Tensor | None
    bias: Tensor | None


def gradients_in_tiles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given: tuple[Tensor, Tensor, Tensor],
    block: QueryBlock,
    options: TileOptions,
    *,
    of_inputs: bool,
    of_bias: bool,
) -> Gradients:
    """Gradients of :func:`attend_in_tiles`, from scores that are computed again.

    Args:
        q: (b, H, t, K) in reversed order.
        k: (b, G, s, K).
        v: (b, G, s, K').
        given: gradient of the output (b, H, t, K'), its product with the output summed over channels (b, H, t), and
            the log of the sum of exponentiated scores (b, H, t), all in reversed order.
        block: which they are.
        options: what was done with the scores.
        of_inputs: whether gradients of queries, keys and values are asked for.
        of_bias: whether that of the bias is.
    """
    slope, product, log = given
    grouped, grouped_slope = _grouped(q, k), _grouped(slope, k)
    dq, dk, dv = torch.zeros_like(grouped), torch.empty_like(k), torch.empty_like(v)
    (first, last), (begin, end) = block.queries, block.keys
    dbias = q.new_zeros(q.shape[1], last - first + end - begin - 1) if of_bias else None
    for tile, keys in tiles(block, q):
        scores = _product(grouped, k[:, :, keys]).view(*q.shape[:3], -1)
        capped: Tensor | None = None
        if options.softcap is None:
            weights = scores.mul_(options.scale).sub_(log[..., None])
        else:
            capped = scores.mul_(options.scale / options.softcap).tanh_()
            weights = torch.add(-log[..., None], capped, alpha=options.softcap)
        added = options.added(tile)
        weights = (weights if added is None else weights.add_(added)).exp_()
        slopes = _product(grouped_slope, v[:, :, keys]).view(*q.shape[:3], -1)  # of the weights
        kept = weights
        if options.dropped is not None:
            factors = options.dropped(tile, tuple(weights.shape))
            kept, slopes = weights * factors, slopes.mul_(factors)
        if of_inputs:
            dv[:, :, keys] = _product_of_queries(kept, grouped_slope)
        slopes = slopes.sub_(product[..., None]).mul_(weights)  # of the scores
        if dbias is not None:
            dbias[:, keys.start : keys.stop + last - first - 1] += by_distance(slopes.sum(0))
        if of_inputs:
            if capped is not None:
                slopes = torch.ops.aten.tanh_backward(slopes, capped)
            dq += _of_values(slopes, k[:, :, keys]).view_as(dq)
            dk[:, :, keys] = _product_of_queries(slopes, grouped)
    if not of_inputs:
        return Gradients(None, None, None, dbias)
    return Gradients(dq.view_as(q).mul_(options.scale), dk.mul_(options.scale), dv, dbias)


def by_distance(x: Tensor) -> Tensor:
    """(H, t, s) with queries in reversed order -> (H, t+s-1), the sum over all pairs of each distance."""
    heads, queries, keys = x.shape
    width = queries + keys - 1
    wide = torch.zeros(heads, queries, width + 1, dtype=x.dtype, device=x.device)
    wide[..., :keys] = x
    return wide.view(heads, -1)[:, : queries * width].view(heads, queries, width).sum(1)


def _grouped(x: Tensor, k: Tensor) -> Tensor:
    """(b, H, t, K) -> (b, G, H/G*t, K): the queries of all heads that share a key head."""
    return x.reshape(x.shape[0], k.shape[1], -1, x.shape[-1])


def _product(x: Tensor, y: Tensor) -> Tensor:
    """(b, G, n, K), (b, G, s, K) -> (b, G, n, s)"""
    return x @ y.transpose(-2, -1)


def _of_values(weights: Tensor, v: Tensor) -> Tensor:
    """(b, H, t, s), (b, G, s, K) -> (b, H, t, K)"""
    return (_grouped(weights, v) @ v).view(*weights.shape[:3], -1)


def _product_of_queries(weights: Tensor, grouped: Tensor) -> Tensor:
    """(b, H, t, s), (b, G, H/G*t, K) -> (b, G, s, K)"""
    return _grouped(weights, grouped).transpose(-2, -1) @ grouped
