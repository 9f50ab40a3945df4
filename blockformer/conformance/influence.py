"""Which outputs of a block depend on which of its inputs."""

from dataclasses import replace

import torch
from torch import Tensor

from blockformer.conformance.block_case import BlockCase
from blockformer.conformance.example import Example, example, run
from blocks.base import Component, Router

ROUNDING = 1e-10  # of float64, after some layers of large weights; a real dependency changes far more


def pairs_in(table: Tensor) -> list[tuple[int, int]]:
    """Where a (T, T) table is True, as (output, input)."""
    return [(int(t), int(s)) for t, s in torch.nonzero(table)]


def influence(case: BlockCase, block: Component, given: Example) -> Tensor:
    """(T, T) bool: whether output t changes, by even one bit, when input s changes.

    With routed experts the batch of each matrix product, and so its rounding, depends on all tokens: there differences
    below ``ROUNDING`` are ignored.
    """
    other = example(case, seed=1, batch=given.x.shape[0], length=given.x.shape[1])
    before = run(block, given)
    routed = any(isinstance(module, Router) for module in block.modules())
    allowed = ROUNDING * float(before.detach().abs().max()) if routed else 0.0
    columns: list[Tensor] = []
    for time in range(given.x.shape[1]):
        changed = given.with_tail(time, other).with_tail(time + 1, given)
        columns.append(((run(block, changed) - before).abs() > allowed).flatten(2).any(-1).any(0))
    return torch.stack(columns, dim=1)


def sensitivity(block: Component, given: Example) -> Tensor:
    """(T, T) bool: whether the derivative of output t by input s is not exactly zero. Only for vectors."""
    x = given.x.detach().requires_grad_()
    y = run(block, replace(given, x=x))
    weights = torch.linspace(0.5, 1.5, y[0, 0].numel(), dtype=y.dtype).view(y.shape[2:])
    rows: list[Tensor] = []
    for time in range(y.shape[1]):
        (slope,) = torch.autograd.grad((y[:, time] * weights).sum(), x, retain_graph=True)
        rows.append((slope != 0).flatten(2).any(-1).any(0))
    return torch.stack(rows)
