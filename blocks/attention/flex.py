"""Softmax attention by PyTorch's FlexAttention, which compiles a kernel for the scores."""

import warnings
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from blocks.attention.block_mask import block_mask
from blocks.attention.scoring import Scoring, in_autocast
from blocks.attention.visibility import Visibility

FLEX_WIDTH = 16  # the narrowest heads of FlexAttention's GPU kernels


def flex(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """FlexAttention with a mask of blocks, so that hidden blocks cost nothing. It has no backward pass on CPU."""
    q, k, v = in_autocast(q, k, v)
    width = v.shape[-1]
    if q.is_cuda:
        q, k, v = (_at_least(FLEX_WIDTH, y) for y in (q, k, v))
    cap = scoring.softcap
    bias = None if scoring.bias is None else scoring.bias.values[0]  # (H, T+S-1)
    start = torch.arange(q.shape[2] - 1, -1, -1, device=q.device)  # of each query's part of the bias

    def score(value: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if cap is not None:
            value = cap * torch.tanh(value / cap)
        return value if bias is None else value + bias[h, start[i] + j]

    settings: dict[str, Any] = {"scale": scoring.scale, "enable_gqa": q.shape[1] != k.shape[1]}
    if q.is_cuda:
        options: dict[str, Any] = {}  # dict[str, Any]() would stop torch.compile
        settings["kernel_options"] = options
        if bias is not None:
            options["num_stages"] = 1  # with more, parts of the bias fill the shared memory
        if q.shape[2] > 1:  # the kernel for few queries has no blocks for 128 and more of a group of heads
            options["FORCE_USE_FLEX_ATTENTION"] = True
    settings["block_mask"] = visible.once("block mask", lambda: block_mask(visible))
    if cap is not None or bias is not None:
        settings["score_mod"] = score
    y, auxiliary = _flex_attention(q)(q, k, v, return_aux=AuxRequest(lse=True), **settings)
    y = y[..., :width]
    if scoring.sinks is None:
        return y
    kept = torch.sigmoid(auxiliary.lse - scoring.sinks[None, :, None])  # what is not on the sink
    return y * kept[..., None].to(y.dtype)


def _at_least(width: int, x: Tensor) -> Tensor:
    """(..., K) with zeros as further channels up to a width; they change no score."""
    return F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x


def _flex_attention(q: Tensor) -> Any:
    """FlexAttention: as part of a model that is being compiled, compiled by itself on a GPU, or step by step."""
    if torch.compiler.is_compiling():
        return flex_attention
    return compiled_flex() if q.is_cuda else _flex_step_by_step


def _flex_step_by_step(*args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return cast("Any", flex_attention)(*args, **kwargs)


@cache
def compiled_flex() -> Any:
    """FlexAttention, compiled on first use, and once more, for all lengths, when a second length comes."""
    return cast("Any", torch).compile(flex_attention)
