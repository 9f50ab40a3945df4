"""Softmax attention in documents and windows by PyTorch's FlashAttention, which skips what is hidden (Dao, 2023)."""

from functools import cache, partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility

UNIT, WIDEST = 8, 256
"""Heads have a multiple of this many channels, and at most this many."""
ALL_GPUS = 192
"""Wider heads have :data:`WIDEST` channels: not all GPUs have the backward pass of widths between them."""
AMPERE = (8, 0)
"""The first GPUs that FlashAttention supports, by compute capability."""


def fits_varlen(q: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> bool:
    """Whether the kernel computes this: documents or a window, in 16 bits on a GPU, and nothing that changes scores.

    Documents whose tokens stand in several places do not fit. Finding that out, and where documents begin, waits for
    the GPU once per forward, which a compiled model cannot; there FlexAttention is compiled in.
    """
    in_16_bits = q.is_cuda and q.dtype in (torch.float16, torch.bfloat16)
    if (
        not in_16_bits
        or torch.compiler.is_compiling()
        or not q.numel()
        or torch.cuda.get_device_capability(q.device) < AMPERE
    ):
        return False
    changed = scoring.dropout or scoring.softcap is not None or scoring.bias is not None or scoring.sinks is not None
    if changed or visible.queries != visible.keys or max(q.shape[-1], v.shape[-1]) > WIDEST:
        return False
    if visible.padding is not None or visible.prefix is not None or visible.chosen is not None:
        return False
    if visible.documents is None:
        return visible.window is not None
    return visible.once("unbroken", lambda: bool(visible.gapless().all()))


def varlen(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """All documents of all rows one after another; see :func:`fits_varlen`."""
    rows, _, length, _ = q.shape
    width = -(-max(q.shape[-1], v.shape[-1]) // UNIT) * UNIT
    if width > ALL_GPUS:
        width = WIDEST
    borders = visible.once(f"borders of {rows} rows", lambda: document_borders(visible, rows))
    behind = -1 if visible.window is None else visible.window - 1
    ahead = 0 if visible.causal else behind
    flat = [F.pad(x, (0, width - x.shape[-1])).transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    y = _kernel()(*flat, borders, borders, length, length, scale=scoring.scale, window_size=(behind, ahead))
    return y.unflatten(0, (rows, length)).transpose(1, 2)[..., : v.shape[-1]]


@cache
def _kernel() -> Any:
    """FlashAttention for any number of key heads."""
    from torch.nn.attention.varlen import varlen_attn  # which imports for seconds

    attend: Any = varlen_attn
    told = "enable_gqa" in signature(attend).parameters  # torch 2.11 takes fewer key heads without being told
    return partial(attend, enable_gqa=True) if told else attend


def document_borders(visible: Visibility, rows: int) -> Tensor:
    """(N+1,) int32: where each document begins when all rows follow one another, and where the last one ends."""
    length, device = visible.keys, visible.device
    begins = torch.arange(0, rows * length + 1, length, dtype=torch.int32, device=device)
    if visible.documents is None:
        return begins
    documents = visible.documents.expand(rows, -1)
    changes = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return torch.cat([changes.flatten().nonzero()[:, 0].to(torch.int32), begins[-1:]])
