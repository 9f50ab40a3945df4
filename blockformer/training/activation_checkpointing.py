"""Activation checkpointing: what layers compute for the backward pass is computed again there instead of kept."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from blocks.base import Context, Layer
from blocks.base.operators import LIBRARY

Checkpointing = Literal["none", "layer", "selective"]

_TORCH = (
    *("mm", "addmm", "_grouped_mm", "_scaled_dot_product_flash_attention", "_scaled_dot_product_cudnn_attention"),
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention"),
    "_scaled_dot_product_fused_attention_overrideable",
)
KEPT: frozenset[Any] = frozenset(
    {
        *(getattr(torch.ops.aten, name).default for name in _TORCH),
        torch.ops.higher_order.flex_attention,
        getattr(torch.ops, LIBRARY).grouped_linear.default,
        getattr(torch.ops, LIBRARY).attention.default,
    }
)
"""Operators whose results `selective` keeps: products with weights, and attention in one call.

Not batched products, such as all scores of an attention, which would take more memory than everything else.
"""


def checkpoint_layers(model: nn.Module, how: Checkpointing) -> None:
    """Set how much the layers of a model keep for the backward pass; no result and no parameter name changes.

    Chen et al., 2016, arXiv:1604.06174; `selective`: Korthikanti et al., 2022, arXiv:2205.05198, section 5.

    Args:
        model: has :class:`~blocks.base.Layer` modules anywhere.
        how: all (none), the input of each layer (layer), or that and the results of :data:`KEPT` (selective).
    """
    for layer in model.modules():
        if isinstance(layer, Layer):
            vars(layer).pop("forward", None)
            if how != "none":  # the forward only: hooks around the layer, such as FSDP2's, run once
                cast("Any", layer).forward = _Checkpointed(layer.forward, selective=how == "selective")


class _Checkpointed:
    """The forward of a layer; with gradients, and without a cache, it is checkpointed."""

    def __init__(self, forward: Callable[[Tensor, Context], Tensor], *, selective: bool) -> None:
        self.forward, self.selective = forward, selective

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        if context.cache is not None or not torch.is_grad_enabled():
            return self.forward(x, context)
        kept = replace(context)  # its attributes may be set anew before the backward pass

        def run(x: Tensor) -> Tensor:
            return self.forward(x, kept)

        if self.selective:
            return cast("Tensor", checkpoint(run, x, use_reentrant=False, context_fn=_contexts))
        return cast("Tensor", checkpoint(run, x, use_reentrant=False))


def _contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy)


def _policy(_: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
