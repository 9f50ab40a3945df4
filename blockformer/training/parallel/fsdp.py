"""FSDP2 (Zhao et al., 2023, arXiv:2304.11277): parameters sharded layer by layer."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from blocks.base import Layer, Stack

MIXED = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
"""Parameters in bfloat16, gradients reduced in float32; the residual stream stays in float32, as under autocast."""


@dataclass(frozen=True)
class FSDP:
    """How FSDP2 shards a model: each layer by itself, and the rest together.

    Attributes:
        mesh: of one dimension, or of two for hybrid sharding (replicas, parts).
        reshard: whether a layer's gathered parameters are freed after its forward pass, or over how many processes they
            are then sharded.
        prefetch: number of layers whose parameters are gathered while one runs; 0: FSDP2 decides.
        mixed: gather the parameters of layers by :data:`MIXED`. Embeddings and heads stay in float32, as autocast looks
            up and adds embeddings in the precision of their table.
    """

    mesh: DeviceMesh
    reshard: bool | int = True
    prefetch: int = 0
    mixed: bool = False

    def apply(self, model: nn.Module, ignored: set[nn.Parameter]) -> None:
        """Shard all parameters of a model but the ``ignored``."""
        policy = MIXED if self.mixed else MixedPrecisionPolicy()
        for layer in model.modules():
            if isinstance(layer, Layer):
                fully_shard(
                    layer,
                    mesh=self.mesh,
                    reshard_after_forward=self.reshard,
                    mp_policy=policy,
                    ignored_params=ignored,
                )
        fully_shard(model, mesh=self.mesh, ignored_params=ignored)  # kept until the end: the loss needs the head
        if self.prefetch:
            for stack in model.modules():
                if isinstance(stack, Stack):
                    self._prefetch([one for one in stack.modules() if isinstance(one, Layer)])

    def _prefetch(self, layers: list[Layer]) -> None:
        """Name for each layer of a stack those that follow in the forward and in the backward pass."""
        sharded = cast("list[FSDPModule]", layers)
        for index, one in enumerate(sharded):
            if after := sharded[index + 1 : index + 1 + self.prefetch]:
                one.set_modules_to_forward_prefetch(after)
            if before := sharded[max(0, index - self.prefetch) : index]:
                one.set_modules_to_backward_prefetch(before[::-1])
