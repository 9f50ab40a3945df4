"""Implementations of softmax attention, all equal to ``eager``.

Queries (B, H, T, K), keys (B, G, S, K) and values (B, G, S, K') with H a multiple of G -> (B, H, T, K'). The output is
0 for a query whose keys are all masked.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from blocks.attention.visibility import Visibility

FLEX_WIDTH = 16  # the narrowest heads of FlexAttention's GPU kernels
Backend = Literal["auto", "eager", "sdpa", "flex"]


class Scoring(NamedTuple):
    """Options of the scores: ``softmax(cap(q k^T * scale) + bias)``.

    Attributes:
        scale: factor on the scores.
        dropout: probability of dropping an attention weight.
        softcap: bound c on the scores, as c * tanh(score / c); None: disabled.
        bias: (B or 1, H, T, S), added to the scores; None: no bias.
        sinks: (H,), an extra score per head in the softmax, for no key; None: no sinks.
    """

    scale: float
    dropout: float = 0.0
    softcap: float | None = None
    bias: Tensor | None = None
    sinks: Tensor | None = None


Attend = Callable[[Tensor, Tensor, Tensor, Visibility, Scoring], Tensor]


def eager(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """softmax(scores) v, step by step: the reference."""
    return F.dropout(attention_weights(q, k, visible, scoring), scoring.dropout) @ _for_heads(v, q.shape[1])


def attention_weights(q: Tensor, k: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """(B, H, T, S): the weight of each key, before dropout; the rest to a sum of 1 is on the sink."""
    scores, mask = attention_scores(q, k, scoring), visible.full(q)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if scoring.sinks is not None:
        column = scoring.sinks.view(1, -1, 1, 1).to(scores.dtype).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=-1)  # (B, H, T, S + 1)
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(q.dtype, torch.float32))[..., : k.shape[2]].to(q.dtype)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)  # a query with no visible key would otherwise attend to all keys
    return weights


def attention_scores(q: Tensor, k: Tensor, scoring: Scoring) -> Tensor:
    """(B, H, T, S): cap(q k^T * scale) + bias, before mask and sinks."""
    scores = q @ _for_heads(k, q.shape[1]).transpose(-2, -1) * scoring.scale
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    return scores if scoring.bias is None else scores + scoring.bias.to(scores.dtype)


def _for_heads(x: Tensor, heads: int) -> Tensor:
    """(B, G, S, K) -> (B, H, S, K): each key or value head repeated for the query heads that share it."""
    groups = heads // x.shape[1]
    return x.repeat_interleave(groups, dim=1) if groups > 1 else x


def sdpa(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """PyTorch's fused kernels (flash, memory-efficient, cuDNN), which do not store the (T, S) scores."""
    width, seen = v.shape[-1], None
    if q.is_cuda and visible.padding and visible.mask is not None:
        seen = visible.mask.any(-1, keepdim=True)  # cuDNN gives NaN gradients to a query without any key
        visible = Visibility(visible.mask | ~seen, False)
    mask, causal = visible.mask, visible.causal
    if scoring.bias is not None or scoring.sinks is not None:
        mask, causal = _additive(q, k, visible, scoring), False
    if scoring.sinks is not None:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))  # an extra key with the sink as score and a value of 0
    if q.is_cpu and width < k.shape[-1]:
        v = F.pad(v, (0, k.shape[-1] - width))  # the fused CPU kernel needs equal widths
    if q.is_cuda and not _fused_with_groups(q, mask):
        k, v = _for_heads(k, q.shape[1]), _for_heads(v, q.shape[1])
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


def _additive(q: Tensor, k: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """Mask, bias and sinks as one tensor (B or 1, H or 1, T, S or S+1) that is added to the scores."""
    added = torch.zeros(1, 1, q.shape[2], k.shape[2], device=q.device) if scoring.bias is None else scoring.bias
    mask = visible.full(q)
    if mask is not None:
        added = added.masked_fill(~mask, -torch.inf)
    if scoring.sinks is not None:
        column = scoring.sinks.view(1, -1, 1, 1).expand(added.shape[0], -1, q.shape[2], 1)
        added = torch.cat([added.expand(-1, q.shape[1], -1, -1).to(column.dtype), column], dim=-1)
    return added.to(q.dtype)


def flex(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """PyTorch's FlexAttention, which compiles a kernel for the scores. It has no backward pass on CPU."""
    width = v.shape[-1]
    if q.is_cuda:
        q, k, v = (_at_least(FLEX_WIDTH, y) for y in (q, k, v))
    shape, cap = (q.shape[0], -1, q.shape[2], k.shape[2]), scoring.softcap
    mask, bias = visible.full(q), scoring.bias
    mask = None if mask is None else mask.expand(shape)
    bias = None if bias is None else bias.expand(shape)

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


IMPLEMENTATIONS: dict[str, Attend] = {"eager": eager, "sdpa": sdpa, "flex": flex}
BACKENDS = tuple(IMPLEMENTATIONS)


def choose(backend: Backend, *, softcap: bool, dropout: bool) -> Attend:
    """The implementation of a backend; auto: the fastest one that supports the options.

    Raises:
        ValueError: the backend does not support an option.
    """
    if backend == "auto":
        return eager if softcap else sdpa
    if backend == "sdpa" and softcap:
        raise ValueError("backend=sdpa does not support softcap; choose eager or flex")
    if backend == "flex" and dropout:
        raise ValueError("backend=flex does not support dropout; choose eager or sdpa")
    return IMPLEMENTATIONS[backend]
