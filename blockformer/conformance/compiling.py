"""A block can be compiled whole, for every length, and exported."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from blockformer.conformance.comparing import COARSE, assert_same
from blockformer.conformance.example import Example, example
from blockformer.conformance.gradients import backward, floating, gradients_of
from blockformer.conformance.running import run
from blockformer.conformance.subject import Subject
from blocks.base import Component

LENGTHS = (5, 7, 11)
COMPILED = 2  # once for the first length, and once for every other


def check_compiles(subject: Subject) -> None:
    """torch.compile takes it whole, without a graph break, and it gives the same values and gradients."""
    block, given = subject.build(), example(subject)
    expected, gradients = run(block, given), gradients_of(block, given)
    torch.compiler.reset()
    compiled = cast("Any", torch).compile(run, backend="aot_eager", fullgraph=True, dynamic=False)
    block.zero_grad(set_to_none=True)
    given = floating(given)
    y = cast("Tensor", compiled(block, given))
    assert_same(y, expected, "compiled", COARSE)
    backward(y)
    for name, parameter in block.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"compiled, {name} has no gradient"
            assert_same(parameter.grad, gradients[name], f"compiled, the gradient of {name}", COARSE)


def check_compiles_once_for_all_lengths(subject: Subject) -> None:
    """Texts of other lengths are compiled for once more at most, and give the same."""
    block, count = subject.build(), _Counting()
    torch.compiler.reset()
    compiled = cast("Any", torch).compile(run, backend=count, fullgraph=True)
    for length in LENGTHS:
        given = example(subject, length=length)
        assert_same(compiled(block, given), run(block, given), f"compiled, {length} tokens", COARSE)
    assert count.graphs <= COMPILED, f"compiled {count.graphs} times for the lengths {LENGTHS}"


def check_exports(subject: Subject) -> None:
    """torch.export takes it, and what is exported gives the same, for other values too."""
    block, given, other = subject.build(), example(subject), example(subject, seed=1)
    program = torch.export.export(_Call(block), _tensors(given), strict=False)
    for inputs in (given, other):
        assert_same(program.module()(*_tensors(inputs)), run(block, inputs), "exported", COARSE)


class _Counting:
    """A backend that compiles nothing and counts what it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


class _Call(nn.Module):
    """A block with its inputs as plain tensors."""

    def __init__(self, block: Component) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        return run(self.block, Example(x, memory=memory))


def _tensors(given: Example) -> tuple[Tensor, ...]:
    return (given.x,) if given.memory is None else (given.x, given.memory)
