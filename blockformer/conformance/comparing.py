"""Equality, and which token influences which."""

import torch
from torch import Tensor

from blockformer.conformance.example import Example, example
from blockformer.conformance.running import run
from blockformer.conformance.subject import Subject
from blocks.base import Component, Router

EXACT, CLOSE, COARSE = 0.0, 1e-9, 1e-5  # of the largest value; CLOSE is for float64
ROUNDING = 1e-10  # of float64, after some layers of large weights; what is seen by mistake matters far more


def assert_same(actual: Tensor, expected: Tensor, what: str, tolerance: float = CLOSE) -> None:
    """Both have the same shape and differ by no more than ``tolerance`` of the largest expected value.

    Where everything expected is next to zero, what rounding leaves of it may differ.
    """
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)} is not {tuple(expected.shape)}"
    if not expected.numel():
        return
    assert bool(torch.isfinite(actual).all()), f"{what}: not all values are finite"
    actual, expected = actual.detach().double(), expected.detach().double()
    difference = (actual - expected).abs()
    worst, allowed = float(difference.max()), tolerance * max(float(expected.abs().max()), 1e-5)
    if worst > allowed:
        place = [int(i) for i in torch.unravel_index(difference.argmax(), difference.shape)]
        raise AssertionError(f"{what}: differs by {worst:.3g} at {place}, and {allowed:.3g} is allowed")


def pairs_in(table: Tensor) -> list[tuple[int, int]]:
    """Where a (T, T) table is True, as (output, input)."""
    return [(int(t), int(s)) for t, s in torch.nonzero(table)]


def influence(subject: Subject, block: Component, given: Example) -> Tensor:
    """(T, T) bool: whether output t changes, by even one bit, when input s does.

    Where tokens are routed, how many share a matrix product, and by that its rounding, depends on all of them: there
    rounding does not count.
    """
    other = example(subject, seed=1, batch=given.x.shape[0], length=given.x.shape[1])
    before = run(block, given)
    routed = any(isinstance(module, Router) for module in block.modules())
    allowed = ROUNDING * float(before.detach().abs().max()) if routed else 0.0
    columns: list[Tensor] = []
    for time in range(given.x.shape[1]):
        changed = given.with_tail(time, other).with_tail(time + 1, given)
        columns.append(((run(block, changed) - before).abs() > allowed).flatten(2).any(-1).any(0))
    return torch.stack(columns, dim=1)


def sensitivity(block: Component, given: Example) -> Tensor:
    """(T, T) bool: whether the derivative of output t by input s is anything but exactly zero. For vectors only."""
    x = given.x.detach().requires_grad_()
    y = run(block, Example(x, given.mask, given.documents, given.memory, given.memory_mask))
    weights = torch.linspace(0.5, 1.5, y[0, 0].numel(), dtype=y.dtype).view(y.shape[2:])
    rows: list[Tensor] = []
    for time in range(y.shape[1]):
        (slope,) = torch.autograd.grad((y[:, time] * weights).sum(), x, retain_graph=True)
        rows.append((slope != 0).flatten(2).any(-1).any(0))
    return torch.stack(rows)
