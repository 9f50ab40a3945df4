"""Linear recurrences of single channels, in parallel over segments of the sequence.

Each is an operator of its own, so that ``torch.compile`` and ``torch.export`` take it as it is, for any length, and its
backward pass keeps few states.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor

from blocks.base.operators import LIBRARY

WIDE = 2**14  # elements of a step from which a CPU gains more from reading them once than from fewer steps


def linear_scan(decay: Tensor, write: Tensor, before: Tensor) -> Tensor:
    """All h_t = decay_t * h_(t-1) + write_t.

    Args:
        decay: (B, T, D), 0 to 1.
        write: (B, T, D).
        before: (B, D), h before the first token.

    Returns:
        (B, T, D)
    """
    return _scan(decay, write, before)


def scanned(decay: Tensor, write: Tensor, before: Tensor) -> Tensor:
    """:func:`linear_scan` without a gradient, for any number of axes after T.

    The sequence is cut into about sqrt(T) segments that advance side by side, each from 0, and then in order get what
    is left of the state before them. Where a step has many elements already, one segment is faster.
    """
    batch, length, *rest = write.shape
    if length < 3 or (not write.is_cuda and before.numel() >= WIDE):
        h = write.clone(memory_format=torch.contiguous_format)
        for t in range(length):
            h[:, t].addcmul_(decay[:, t], h[:, t - 1] if t else before)
        return h
    size = math.isqrt(length - 1) + 1
    count = -(-length // size)
    h = write.new_zeros(batch, count * size, *rest)
    kept = torch.ones_like(h)
    h[:, :length], kept[:, :length] = write, decay
    h, kept = h.view(batch, count, size, *rest), kept.view(batch, count, size, *rest)
    for i in range(1, size):
        h[:, :, i].addcmul_(kept[:, :, i], h[:, :, i - 1])
        kept[:, :, i].mul_(kept[:, :, i - 1])
    for n in range(count):
        state = h[:, n - 1, -1] if n else before
        h[:, n].addcmul_(kept[:, n], state[:, None])
    return h.flatten(1, 2)[:, :length].contiguous()


@torch.library.custom_op(f"{LIBRARY}::linear_scan", mutates_args=())
def _scan(decay: Tensor, write: Tensor, before: Tensor) -> Tensor:
    return scanned(decay, write, before)


@cast("Any", _scan).register_fake
def _(decay: Tensor, write: Tensor, before: Tensor) -> Tensor:
    return torch.empty_like(write, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[2], output)


def _gradients(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of h is the same recurrence, from the last token back."""
    decay, before, h = ctx.saved_tensors
    later = torch.cat([decay[:, 1:], torch.zeros_like(decay[:, :1])], dim=1)
    g = _scan(later.flip(1), slope.flip(1), torch.zeros_like(before)).flip(1)
    earlier = torch.cat([before[:, None], h[:, :-1]], dim=1)
    return g * earlier, g, (g[:, :1] * decay[:, :1]).sum(dim=1)


cast("Any", _scan).register_autograd(_gradients, setup_context=_keep)
