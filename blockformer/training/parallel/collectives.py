"""The two ends of a tensor-parallel region (Shoeybi et al. 2019, arXiv:1909.08053, section 3)."""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

Group = dist.ProcessGroup


def spread(x: Tensor, group: Group) -> Tensor:
    """Begin a region (the paper's f): the identity forward, an all-reduce of the gradients backward."""
    return cast("Any", _Spread).apply(x, group)


def reduce(x: Tensor, group: Group) -> Tensor:
    """End a region (the paper's g): an all-reduce forward, the identity backward."""
    return cast("Any", _Reduce).apply(x, group)


def all_reduced(x: Tensor, group: Group) -> Tensor:
    """The sum over the group, as a new tensor."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


class _Spread(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return all_reduced(grads[0], ctx.group), None


class _Reduce(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return all_reduced(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
