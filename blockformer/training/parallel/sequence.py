"""Sequence parallelism: between the blocks that tensor parallelism splits, a process keeps a part of the tokens.

Norms, dropout and the residual stream are computed and kept for T / P of the tokens instead of by all P processes alike
(Korthikanti et al., 2022, arXiv:2205.05198). A sublayer still gets all tokens, so any mixer and any feed-forward works.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

from blocks.base import Component, Context, FeedForward, Lookup, Mixer, Stack

Group = dist.ProcessGroup


def divide_tokens(model: Component, group: Group) -> None:
    """Let each process of a group keep a part of the tokens between the sublayers of all stacks."""
    for _, stack in stacks(model):
        tokens = _Tokens(group)
        stack.register_forward_pre_hook(tokens.own_given)
        stack.register_forward_hook(tokens.all_result)
        for _, sublayer in sublayers(stack):
            sublayer.register_forward_pre_hook(tokens.all_given)
            sublayer.register_forward_hook(tokens.own_result)


def stacks(model: Component) -> Iterator[tuple[str, Stack]]:
    """The stacks of a model, with their module paths."""
    for path, component in model.components():
        if isinstance(component, Stack):
            yield path, component


def sublayers(stack: Stack) -> Iterator[tuple[str, Mixer | FeedForward | Lookup]]:
    """The mixers, feed-forwards and lookups of a stack that are in no other, with their module paths in it."""
    inside: tuple[str, ...] = ()
    for path, component in stack.components():
        if isinstance(component, Mixer | FeedForward | Lookup) and not path.startswith(inside or ("\0",)):
            inside += (f"{path}.",)
            yield path, component


def between_sublayers(model: Component) -> Iterator[str]:
    """Names of the parameters that each process applies to its own tokens, so that their gradients are summed."""
    for path, stack in stacks(model):
        start = f"{path}." if path else ""
        inside = tuple(f"{start}{name}." for name, _ in sublayers(stack))
        shared = (f"{start}positions.",)  # computed for all tokens by each process
        for name, _ in stack.named_parameters():
            if not f"{start}{name}".startswith((*inside, *shared)):
                yield f"{start}{name}"


class _Tokens:
    """The hooks of one stack; they know its number of tokens while it runs.

    Args:
        group: the processes; each has an equal part of the tokens in order, and the last ones have fewer.
    """

    def __init__(self, group: Group) -> None:
        self.group, self.index, self.count, self.length = group, dist.get_rank(group), dist.get_world_size(group), 0

    def own_given(self, stack: nn.Module, given: Any) -> Any:
        self.length = given[0].shape[1]
        if any(isinstance(part, Mixer) and part.reads_inputs for part in stack.modules()):
            cast("Context", given[1]).inputs = given[0]  # of all tokens
        return (self._own(given[0]), *given[1:])

    def all_result(self, _: nn.Module, given: Any, result: Tensor) -> Tensor:
        return self._all(result)

    def all_given(self, _: nn.Module, given: Any) -> Any:
        return (self._all(given[0]), *given[1:])

    def own_result(self, _: nn.Module, given: Any, result: Tensor) -> Tensor:
        return self._own(result)

    def _own(self, x: Tensor) -> Tensor:
        return cast("Any", _Own).apply(x, self)

    def _all(self, x: Tensor) -> Tensor:
        return cast("Any", _All).apply(x, self, self.length)

    def own(self, x: Tensor) -> Tensor:
        """This process's part of (B, T, ...), as a new tensor."""
        each = -(-x.shape[1] // self.count)
        return x[:, self.index * each : (self.index + 1) * each].contiguous()

    def gathered(self, part: Tensor, length: int) -> Tensor:
        """(B, T, ...) of all parts, of ``length`` tokens."""
        each = -(-length // self.count)
        if part.shape[1] < each:
            part = torch.cat([part, part.new_zeros(part.shape[0], each - part.shape[1], *part.shape[2:])], dim=1)
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.count)]
        dist.all_gather(parts, part.contiguous(), group=self.group)
        return torch.cat(parts, dim=1)[:, :length]


class _Own(Function):
    """This process's tokens forward, the gradients of all tokens backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: _Tokens) -> Tensor:
        ctx.tokens, ctx.length = tokens, x.shape[1]
        return tokens.own(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.tokens.gathered(grads[0], ctx.length), None


class _All(Function):
    """All tokens forward, the gradients of this process's tokens backward."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, tokens: _Tokens, length: int) -> Tensor:
        ctx.tokens = tokens
        return tokens.gathered(part, length)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.tokens.own(grads[0]), None, None
