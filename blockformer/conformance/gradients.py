"""Gradients reach everything, and are right."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blockformer.conformance.comparing import EXACT, assert_same
from blockformer.conformance.example import Example, example, restart_chance
from blockformer.conformance.running import run
from blockformer.conformance.subject import Subject, chances
from blocks.base import Component


def check_gradients_reach_every_parameter(subject: Subject) -> None:
    """Each parameter gets a finite gradient that is not all zero: distributed training waits for every one of them."""
    gradients = gradients_of(subject.build(), example(subject))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values()), "a gradient is not finite"
    still = [name for name, gradient in gradients.items() if not bool(gradient.any())]
    assert not still, f"no gradient reaches {', '.join(still)}"


def check_gradients_are_right(subject: Subject) -> None:
    """Gradients by inputs and parameters equal differences in float64."""
    block, given = subject.build(), example(subject, batch=1, length=3)
    learned = [(name, parameter) for name, parameter in block.named_parameters() if parameter.requires_grad]
    names, values = [name for name, _ in learned], [parameter for _, parameter in learned]
    floats = () if subject.reads_ids else (given.x,)

    def call(*tensors: Tensor) -> Tensor:
        inputs = Example(tensors[0] if floats else given.x, memory=given.memory)
        parameters = dict(zip(names, tensors[len(floats) :], strict=True))
        return torch.func.functional_call(_Run(block), {f"block.{n}": p for n, p in parameters.items()}, (inputs,))

    tensors = tuple(tensor.detach().clone().requires_grad_() for tensor in (*floats, *values))
    if tensors:
        torch.autograd.gradcheck(call, tensors, fast_mode=True, eps=1e-6, atol=1e-5)


def check_survives_zeros(subject: Subject) -> None:
    """Vectors of nothing but zeros, which padding leaves, have finite results and gradients."""
    block, given = subject.build(), example(subject)
    zeros = Example(torch.zeros_like(given.x), memory=given.memory)
    assert bool(torch.isfinite(run(block, zeros)).all()), "zeros give values that are not finite"
    for name, gradient in gradients_of(block, zeros).items():
        assert bool(torch.isfinite(gradient).all()), f"at zeros, the gradient of {name} is not finite"


def check_can_be_computed_again(subject: Subject) -> None:
    """Activation checkpointing changes neither values nor gradients, with dropout neither."""
    for path in chances(subject):
        subject = subject.put(path, 0.5)
    block, given = subject.build().train(), example(subject)
    found: list[dict[str, Tensor]] = []
    for again in (False, True):
        restart_chance()
        found.append(gradients_of(block, given, again=again))
    for name, gradient in found[0].items():
        assert_same(found[1][name], gradient, f"computed again, the gradient of {name}", EXACT)


def gradients_of(block: Component, given: Example, *, again: bool = False) -> dict[str, Tensor]:
    """Gradients of a weighted sum of the output by every parameter, and by ``x`` if it is a vector."""
    block.zero_grad(set_to_none=True)
    given = floating(given)
    # the module goes through an argument, so that the gradient reaches it even where no input needs one
    y = cast("Any", checkpoint)(run, block, given, use_reentrant=False) if again else run(block, given)
    backward(y)
    learned = [(name, parameter) for name, parameter in block.named_parameters() if parameter.requires_grad]
    unused = [name for name, parameter in learned if parameter.grad is None]
    assert not unused, f"not used in the forward: {', '.join(unused)}"
    found = {name: parameter.grad.clone() for name, parameter in block.named_parameters() if parameter.grad is not None}
    return found if given.x.grad is None else {"x": given.x.grad, **found}


def floating(given: Example) -> Example:
    """The same with an ``x`` that asks for its gradient, if it is one of vectors."""
    x = given.x.detach().clone().requires_grad_(given.x.is_floating_point())
    return Example(x, given.mask, given.documents, given.memory, given.memory_mask)


def backward(y: Tensor) -> None:
    """Gradients of a sum of all values in which each counts differently, if anything here has one."""
    if y.requires_grad:
        weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).view(y.shape)
        cast("Any", (y * weights).sum()).backward()


class _Run(nn.Module):
    """A block with :func:`run` as its forward, so that its parameters can be exchanged for a call."""

    def __init__(self, block: Component) -> None:
        super().__init__()
        self.block = block

    def forward(self, given: Example) -> Tensor:
        return run(self.block, given)
