"""Softmax attention by blocks of queries, each with the keys that it can see, in memory linear in the length.

It is an operator of its own, so that ``torch.compile`` and ``torch.export`` take it as it is, for any length.
"""

from typing import Any, cast

import torch
from torch import Tensor

from blocks.attention.block_attention import BlockOptions, attend, gradients
from blocks.attention.scoring import Scoring, in_autocast
from blocks.attention.visibility import Visibility
from blocks.base.operators import LIBRARY


def blocked(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """Softmax attention whose time is linear in the length for windows and documents, and whose memory always is."""
    q, k, v = in_autocast(q, k, v)
    bias = None if scoring.bias is None else scoring.bias.values
    seed = torch.randint(2**62, ()) if scoring.dropout else None
    described = visible.causal, visible.window, visible.padding, visible.documents, visible.prefix, visible.chosen
    numbers = scoring.scale, scoring.softcap, scoring.dropout, scoring.bias.reach if scoring.bias else None
    y, _ = _attention(q, k, v, bias, scoring.sinks, seed, *described, *numbers)
    return y


@torch.library.custom_op(f"{LIBRARY}::attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    sinks: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    window: int | None,
    padding: Tensor | None,
    documents: Tensor | None,
    prefix: Tensor | None,
    chosen: Tensor | None,
    scale: float,
    softcap: float | None,
    dropout: float,
    reach: int | None,
) -> tuple[Tensor, Tensor]:
    visible = Visibility(q.shape[2], k.shape[2], q.device, causal, window, padding, documents, prefix, chosen)
    with torch.autocast(q.device.type, enabled=False):  # products of parts are summed, in float32 or wider
        return attend(q, k, v, visible, BlockOptions(scale, softcap, dropout, seed, bias, reach, sinks))


@cast("Any", _attention).register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    y = q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1]).transpose(1, 2)
    return y, q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))


@torch.library.custom_op(f"{LIBRARY}::attention_backward", mutates_args=())
def _attention_backward(
    slope: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    log: Tensor,
    bias: Tensor | None,
    sinks: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    window: int | None,
    padding: Tensor | None,
    documents: Tensor | None,
    prefix: Tensor | None,
    chosen: Tensor | None,
    scale: float,
    softcap: float | None,
    dropout: float,
    reach: int | None,
    of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    visible = Visibility(q.shape[2], k.shape[2], q.device, causal, window, padding, documents, prefix, chosen)
    options = BlockOptions(scale, softcap, dropout, seed, bias, reach, sinks)
    found = gradients(slope, (q, k, v), (y, log), visible, options, of_bias=of_bias)
    nothing = q.new_empty(0)
    dq, dk, dv = (x.contiguous() for x in (found.q, found.k, found.v))
    return (
        dq,
        dk,
        dv,
        nothing if found.bias is None else found.bias,
        q.new_empty(0) if found.sinks is None else found.sinks,
    )


@cast("Any", _attention_backward).register_fake
def _(slope: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    bias, sinks, of_bias = rest[2], rest[3], rest[-1]
    dbias = torch.empty_like(bias) if of_bias and bias is not None else q.new_empty(0)
    dsinks = q.new_empty(0) if sinks is None else torch.empty_like(sinks)
    dense = torch.contiguous_format
    return (*(torch.empty_like(x, memory_format=dense) for x in (q, k, v)), dbias, dsinks)


def _keep(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    q, k, v, bias, sinks, seed, causal, window, padding, documents, prefix, chosen, *numbers = inputs
    ctx.save_for_backward(q, k, v, *output, bias, sinks, seed, padding, documents, prefix, chosen)
    ctx.described, ctx.numbers = (causal, window), numbers


def _gradients(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, y, log, bias, sinks, seed, *masks = ctx.saved_tensors
    of_bias = bool(ctx.needs_input_grad[3])
    described = *ctx.described, *masks
    found = _attention_backward(slope, q, k, v, y, log, bias, sinks, seed, *described, *ctx.numbers, of_bias)
    dq, dk, dv, dbias, dsinks = found
    return dq, dk, dv, dbias if of_bias else None, None if sinks is None else dsinks, *[None] * 11


cast("Any", _attention).register_autograd(_gradients, setup_context=_keep)
