"""Softmax attention by PyTorch's FlexAttention, which compiles a kernel for the scores."""

import warnings
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility

FLEX_WIDTH = 16  # the narrowest heads of FlexAttention's GPU kernels


def flex(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """PyTorch's FlexAttention, which compiles a kernel for the scores. It has no backward pass on CPU."""
    width = v.shape[-1]
    if q.is_cuda:
        q, k, v = (_at_least(FLEX_WIDTH, y) for y in (q, k, v))
    shape, cap = (q.shape[0], -1, q.shape[2], k.shape[2]), scoring.softcap
    mask = visible.mask()
    mask = None if mask is None else mask.expand(shape)
    bias = None if scoring.bias is None else scoring.bias.scores(k.shape[2]).expand(shape)

    def score(value: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if cap is not None:
            value = cap * torch.tanh(value / cap)
        if bias is not None:
            value = value + bias[b, h, i, j]
        return value if mask is None else torch.where(mask[b, 0, i, j], value, -torch.inf)

    settings: dict[str, Any] = {"scale": scoring.scale, "enable_gqa": q.shape[1] != k.shape[1]}
    if q.is_cuda and bias is not None:
        settings["kernel_options"] = {"num_stages": 1}  # with more, parts of the bias fill the shared memory
    y, auxiliary = _flex_attention(q)(q, k, v, score_mod=score, return_aux=AuxRequest(lse=True), **settings)
    y = y[..., :width]
    if scoring.sinks is None:
        return y
    kept = torch.sigmoid(
        auxiliary.lse - scoring.sinks[None, :, None]
    )  # the fraction of the softmax that is not on the sink
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
