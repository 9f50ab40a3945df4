"""Attention block by block of queries: output and gradients, with memory for one block of scores at a time.

Each block uses PyTorch's fused CPU kernel where it can, and tiles elsewhere. The kernel's backward pass takes the
output and the log of the sum of exponentiated scores, so a sink, which only changes these two, costs nothing more.
"""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.attention.query_blocks import Additive, QueryBlock, query_blocks
from blocks.attention.tiles import TileOptions, attend_in_tiles, gradients_in_tiles
from blocks.attention.visibility import Visibility

_fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_fused_backward: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


class BlockOptions(NamedTuple):
    """Options of the scores as plain values.

    Attributes:
        scale: factor on the scores.
        softcap: bound on the scores; None: disabled.
        dropout: probability of dropping a weight.
        seed: of the dropout, () int; None: no dropout.
        bias: (1, H, T+S-1) by distance; None: no bias.
        reach: distances of at least this many tokens share one bias on each side; None: unknown.
        sinks: (H,); None: no sinks.
    """

    scale: float
    softcap: float | None
    dropout: float
    seed: Tensor | None
    bias: Tensor | None
    reach: int | None
    sinks: Tensor | None


class BlockGradients(NamedTuple):
    """Gradients of queries, keys, values, bias and sinks; None where there is no such input."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    sinks: Tensor | None


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, options: BlockOptions) -> tuple[Tensor, Tensor]:
    """Output (B, H, T, K'), in memory (B, T, H, K'), and log of the sum of exponentiated scores, (B, H, T).

    The latter counts the sink, and has no meaning for a query that sees no key.
    """
    y = q.new_zeros(q.shape[0], q.shape[2], q.shape[1], v.shape[-1]).transpose(1, 2)
    log = q.new_zeros(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    if not q.numel() or not k.numel():
        return y, log
    run = _Run(q, k, v, visible, options)
    if run.whole:
        part, log = _fused(run.q, run.k, run.v, 0.0, visible.plainly_causal, scale=options.scale)
        y.copy_(part[..., : v.shape[-1]])
    else:
        for block in query_blocks(visible, q.shape[0]):
            inputs, at = run.inputs(block), slice(*block.queries)
            if run.fused:
                part, sums = _fused(*inputs, 0.0, False, attn_mask=run.added(block), scale=options.scale)
            else:
                part, sums = attend_in_tiles(*inputs, block, run.tile_options)
            y[block.rows, :, at] = part[..., : v.shape[-1]].flip(2).to(y.dtype)
            log[block.rows, :, at] = sums.flip(2)
    if options.sinks is not None:
        sinks = options.sinks.to(log.dtype)[None, :, None]
        y *= torch.sigmoid(log - sinks)[..., None].to(y.dtype)
        log = torch.logaddexp(log, sinks)
    return y, log


def gradients(
    slope: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    result: tuple[Tensor, Tensor],
    visible: Visibility,
    options: BlockOptions,
    *,
    of_bias: bool,
) -> BlockGradients:
    """Gradients of :func:`attend`, given that of the output, from scores that are computed again."""
    if not inputs[0].numel() or not inputs[1].numel():
        q, k, v = (torch.zeros_like(x) for x in inputs)
        others = (
            None if x is None else torch.zeros_like(x) for x in (options.bias if of_bias else None, options.sinks)
        )
        return BlockGradients(q, k, v, *others)
    run, (y, log) = _Run(*inputs, visible, options), result
    product = (slope.to(run.dtype) * y.to(run.dtype)).sum(-1)  # (B, H, T)
    dbias = torch.zeros_like(options.bias, dtype=run.dtype) if of_bias and options.bias is not None else None
    dsinks: Tensor | None = None
    if options.sinks is not None:
        dsinks = -(run.on_sink(log) * product).sum((0, 2)).to(options.sinks.dtype)
    slope, y = (_widened(x, run.width) for x in (slope, y))
    if run.whole:
        causal = visible.plainly_causal
        given = slope.to(run.q.dtype), run.q, run.k, run.v, y, log
        found: Any = _fused_backward(*given, 0.0, causal, scale=options.scale)
    else:
        wide = torch.float64 if run.dtype == torch.float64 else torch.float32
        found = tuple(torch.zeros_like(x, dtype=wide) for x in (run.q, run.k, run.v))
        for block in query_blocks(visible, slope.shape[0]):
            run.add_gradients(found, dbias, (slope, y, product, log), block)
    given_widths = (x.shape[-1] for x in inputs)
    dq, dk, dv = (x[..., :size].to(slope.dtype) for x, size in zip(found, given_widths, strict=True))
    return BlockGradients(
        dq, dk, dv, None if dbias is None or options.bias is None else dbias.to(options.bias.dtype), dsinks
    )


class _Run:
    """Inputs of one call, and what all of its blocks share."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, visible: Visibility, options: BlockOptions) -> None:
        self.visible, self.options = visible, options
        self.fused = q.is_cpu and options.softcap is None and options.seed is None
        self.dtype = torch.promote_types(q.dtype, torch.float32)
        plain = visible.everything or visible.plainly_causal
        self.whole = self.fused and options.bias is None and plain
        self.width = max(q.shape[-1], v.shape[-1]) if self.fused else v.shape[-1]
        if self.fused:  # the kernel needs equal widths
            q, k, v = (_widened(x, self.width) for x in (q, k, v))
        self.q, self.k, self.v = q, k, v
        self.added = Additive(visible, options.bias, self.dtype)
        dropped = None if options.seed is None else self._dropped
        self.tile_options = TileOptions(options.scale, options.softcap, self.added, dropped)

    def inputs(self, block: QueryBlock) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, in reversed order, keys and values of a block."""
        keys = slice(*block.keys)
        found = self.reversed(self.q, block), self.k[block.rows, :, keys], self.v[block.rows, :, keys]
        return found if self.fused else cast("Any", tuple(x.to(self.dtype).contiguous() for x in found))

    def reversed(self, x: Tensor, block: QueryBlock) -> Tensor:
        """(B, H, T, ...) -> (b, H, t, ...): that of a block's queries, in reversed order."""
        return x[block.rows, :, slice(*block.queries)].flip(2)

    def add_gradients(
        self, found: tuple[Tensor, Tensor, Tensor], dbias: Tensor | None, result: Any, block: QueryBlock
    ) -> None:
        """Add the gradients of a block to those found, given slope, output, their product and log of the whole."""
        slope, y, product, log = (self.reversed(x, block) for x in result)
        inputs, given = self.inputs(block), (slope.to(self.dtype), product, log)
        if self.fused:
            mask, scale = self.added(block), self.options.scale
            parts: Any = _fused_backward(slope, *inputs, y, log, 0.0, False, attn_mask=mask, scale=scale)
            if dbias is not None:
                self._add_bias_gradient(dbias, inputs, given, block)
        else:
            q, k, v = inputs
            of_bias = dbias is not None
            made: Any = gradients_in_tiles(q, k, v, given, block, self.tile_options, of_inputs=True, of_bias=of_bias)
            *parts, by_distance = made
            if dbias is not None:
                self._place(dbias, block)[...] += by_distance
        dq, dk, dv = found
        at, keys = slice(*block.queries), slice(*block.keys)
        dq[block.rows, :, at] += parts[0].flip(2)
        dk[block.rows, :, keys] += parts[1]
        dv[block.rows, :, keys] += parts[2]

    def _place(self, dbias: Tensor, block: QueryBlock) -> Tensor:
        """(H, t+s-1), the part of a gradient (1, H, T+S-1) for the distances in a block."""
        (first, last), (begin, end) = block.queries, block.keys
        start = self.visible.queries - last + begin
        return dbias[0, :, start : start + last - first + end - begin - 1]

    def _add_bias_gradient(self, dbias: Tensor, inputs: Any, given: Any, block: QueryBlock) -> None:
        """Add the bias's gradient: in its reach from scores computed again, beyond it one sum on each side."""
        q, k, v = inputs
        slope, product, log = given
        (first, last), (begin, end) = block.queries, block.keys
        left, right = begin, end  # the keys that some query of the block has in its reach
        if self.options.reach is not None:
            offset = self.visible.keys - self.visible.queries
            left = min(max(begin, first + offset - self.options.reach), end)
            right = max(min(end, last + offset + self.options.reach), left)
        rest = (self.on_sink(log) * product).sum((0, 2))  # all slopes of a query's scores and of its sink sum to 0
        if left < right:
            band, at = block._replace(keys=(left, right)), slice(left - begin, right - begin)
            near_q, near_k, near_v = (x.to(self.dtype).contiguous() for x in (q, k[:, :, at], v[:, :, at]))
            options = self.tile_options
            made = gradients_in_tiles(near_q, near_k, near_v, given, band, options, of_inputs=False, of_bias=True)
            found = made.bias
            assert found is not None
            self._place(dbias, band)[...] += found
            rest = rest - found.sum(-1)
        if right < end:
            after, at = block._replace(keys=(right, end)), slice(right - begin, end - begin)
            mask, scale = self.added(after), self.options.scale
            far = (x.to(self.dtype) for x in (q, k[:, :, at], v[:, :, at]))
            y, sums = _fused(*far, 0.0, False, attn_mask=mask, scale=scale)
            share = torch.exp(sums - log).masked_fill(y.eq(0).all(-1), 0.0)  # of the softmax
            beyond = (share * ((slope * y).sum(-1) - product)).sum((0, 2))
            self._place(dbias, after)[:, -1] += beyond
            rest = rest - beyond
        if begin < left:
            self._place(dbias, block)[:, 0] += rest

    def on_sink(self, log: Tensor) -> Tensor:
        """(B, H, T) -> the fraction of each softmax that is on the sink."""
        if self.options.sinks is None:
            return torch.zeros_like(log)
        return torch.exp(self.options.sinks.to(log.dtype)[None, :, None] - log)

    def _dropped(self, tile: QueryBlock, shape: tuple[int, ...]) -> Tensor:
        """Factors on the weights of a tile, the same whenever it is computed."""
        assert self.options.seed is not None
        place = (tile.rows.start * self.visible.queries + tile.queries[0]) * self.visible.keys + tile.keys[0]
        generator = torch.Generator(self.q.device).manual_seed((int(self.options.seed) + place) % 2**63)
        kept = 1 - self.options.dropout
        factors = torch.empty(shape, dtype=self.dtype, device=self.q.device)
        return factors.bernoulli_(kept, generator=generator).div_(kept)


def _widened(x: Tensor, width: int) -> Tensor:
    """With zeros as further channels up to a width, and channels beside each other in memory, as the kernel needs."""
    x = F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x
    return x if x.stride(-1) == 1 else x.contiguous()
