"""The two ends of a tensor-parallel region: where processes begin to do different things, and where they add up."""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

Group = dist.ProcessGroup


def spread(x: Tensor, group: Group) -> Tensor:
    """What all have, for each to do its part with: nothing forward, gradients are added up backward.

    This is f of Shoeybi et al., 2019, arXiv:1909.08053, section 3, and :func:`reduce` is their g.
    """
    return cast("Any", _Spread).apply(x, group)


def reduce(x: Tensor, group: Group) -> Tensor:
    """What each made of its part, added up; each gets the gradient of the sum."""
    return cast("Any", _Join).apply(x, group)


def added_up(x: Tensor, group: Group) -> Tensor:
    """A new tensor, the sum over the group."""
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
        return added_up(grads[0], ctx.group), None


class _Join(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return added_up(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
