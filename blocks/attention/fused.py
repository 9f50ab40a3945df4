"""Softmax attention by PyTorch's fused kernels (flash, memory-efficient, cuDNN), which do not store the scores."""

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.attention.scoring import Scoring, in_autocast, repeat_heads
from blocks.attention.varlen import fits_varlen, varlen
from blocks.attention.visibility import Visibility


def sdpa(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """One call of a fused kernel; a mask of all scores is made where nothing else decides which keys are visible."""
    q, k, v = in_autocast(q, k, v)
    if fits_varlen(q, v, visible, scoring):
        return varlen(q, k, v, visible, scoring)
    width, seen = v.shape[-1], None
    mask, causal = (None, True) if visible.plainly_causal else (visible.mask(), False)
    if q.is_cuda and visible.padding is not None and mask is not None:
        seen = mask.any(-1, keepdim=True)  # cuDNN gives NaN gradients to a query without any key
        mask = mask | ~seen
    if scoring.bias is not None or scoring.sinks is not None:
        mask, causal = _additive(q, k, visible.mask() if causal else mask, scoring), False
    if scoring.sinks is not None:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))  # an extra key with the sink as score and a value of 0
    if q.is_cpu and width < k.shape[-1]:
        v = F.pad(v, (0, k.shape[-1] - width))  # the fused CPU kernel needs equal widths
    if q.is_cuda and not _fused_with_groups(q, mask):
        k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    y = F.scaled_dot_product_attention(
        q, k, v, mask, scoring.dropout, causal, scale=scoring.scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return y[..., :width] if seen is None else y[..., :width].masked_fill(~seen, 0.0)


def _fused_with_groups(q: Tensor, mask: Tensor | None) -> bool:
    """Whether a fused GPU kernel takes fewer key heads than query heads; otherwise PyTorch would store the scores.

    Flash does, in 16 bits and without a mask; with a mask cuDNN does, which PyTorch prefers from Hopper on.
    """
    in_16_bits = q.dtype in (torch.float16, torch.bfloat16)
    return in_16_bits and (mask is None or torch.cuda.get_device_capability(q.device) >= (9, 0))


def _additive(q: Tensor, k: Tensor, mask: Tensor | None, scoring: Scoring) -> Tensor:
    """Mask, bias and sinks as one tensor (B or 1, H or 1, T, S or S+1) that is added to the scores."""
    if scoring.bias is None:
        added = torch.zeros(1, 1, q.shape[2], k.shape[2], device=q.device)
    else:
        added = scoring.bias.scores(k.shape[2])
    if mask is not None:
        added = added.masked_fill(~mask, -torch.inf)
    if scoring.sinks is not None:
        column = scoring.sinks.view(1, -1, 1, 1).expand(added.shape[0], -1, q.shape[2], 1)
        added = torch.cat([added.expand(-1, q.shape[1], q.shape[2], -1).to(column.dtype), column], dim=-1)
    return added.to(q.dtype)
