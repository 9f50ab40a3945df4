"""Compilation of a model, as a whole or layer by layer."""

from typing import Any, Literal, cast

import torch
from torch import nn

from blocks.base import Layer

Compile = bool | Literal["layer"]

GRAPHS_OF_A_LAYER = 8
"""Compilations of each layer before torch gives up: training and evaluation, fixed and any length, masks or none."""


def compile_model(model: nn.Module, how: Compile, backend: Any = "inductor") -> None:
    """Compile a model with `torch.compile`, once it is set up; no parameter name changes.

    Args:
        model: has :class:`~blocks.base.Layer` modules anywhere.
        how: the model as a whole (True); each layer by itself, where layers that differ only in their weights share the
            compiled code (layer); nothing (False).
        backend: of `torch.compile`.
    """
    if how is False:
        return
    dynamo: Any = torch._dynamo.config
    dynamo.skip_fwd_side_effects_in_bwd_under_checkpoint = True  # routers note a forward once, and masks are made once
    if how is True:
        model.compile(backend=backend)
        return
    dynamo.optimize_ddp = False  # DDP would cut each compiled layer once more, and cannot where it is checkpointed
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    limit = GRAPHS_OF_A_LAYER * len(layers)
    dynamo.recompile_limit = max(dynamo.recompile_limit, limit)  # layers share one function, which counts for all
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, limit)
    for layer in layers:  # the forward only: hooks around the layer, such as FSDP2's, cannot be compiled
        cast("Any", layer).forward = cast("Any", torch).compile(layer.forward, backend=backend)
