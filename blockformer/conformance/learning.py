"""A block can be trained."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from blockformer.conformance.example import example
from blockformer.conformance.gradients import gradients_of
from blockformer.conformance.running import run
from blockformer.conformance.subject import VOCABULARY, Subject
from blocks.base import Component
from blocks.models.base import Model

STEPS, LEFT = 300, 0.1  # of the first loss


def check_trains_in_bfloat16(subject: Subject) -> None:
    """By autocast and with parameters in bfloat16, gradients are finite and about those of float64.

    How much rounding matters to a block is measured by rounding its parameters alone.
    """
    given, single = example(subject), example(subject, dtype=torch.float32)
    exact = _flat(gradients_of(subject.build(), given))
    rounded = _flat(gradients_of(subject.build().to(torch.bfloat16).to(torch.float64), given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = _flat(gradients_of(subject.build(torch.float32), single))
    half = _flat(gradients_of(subject.build(torch.bfloat16), example(subject, dtype=torch.bfloat16)))
    allowed = 0.15 + 4 * _distance(rounded, exact)
    for how, found in (("by autocast", mixed), ("in bfloat16", half)):
        assert bool(torch.isfinite(found).all()), f"{how}, a gradient is not finite"
        error = _distance(found, exact)
        assert error <= allowed, f"{how}, gradients are off by {error:.2g} of their size, {allowed:.2g} is allowed"


def check_learns_a_batch(subject: Subject) -> None:
    """From its own initial values, a model learns one batch of random tokens and answers by heart: 90 % of the loss."""
    model = subject.make().train()
    assert isinstance(model, Model)
    model.initialise(0)
    given = example(subject, batch=4, length=6, dtype=torch.float32)
    answers = torch.randint(VOCABULARY, given.x.shape, generator=torch.Generator().manual_seed(1))
    optimizer, first, loss = torch.optim.Adam(_learned(model), lr=3e-3), 0.0, 0.0
    for step in range(STEPS):
        loss = _step(model, run(model, given), answers, optimizer)
        first = first or loss
        assert loss == loss, f"the loss of step {step} is not a number"
        if loss <= LEFT * first:
            return
    raise AssertionError(f"the loss fell from {first:.3f} to {loss:.3f} only, in {STEPS} steps on one batch")


def _step(model: Model, logits: Tensor, answers: Tensor, optimizer: torch.optim.Optimizer) -> float:
    loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
    optimizer.zero_grad()
    cast("Any", loss + model.auxiliary_loss()).backward()
    cast("Any", optimizer).step()
    model.update()
    return float(loss.detach())


def _learned(block: Component) -> list[torch.nn.Parameter]:
    return [parameter for parameter in block.parameters() if parameter.requires_grad]


def _flat(gradients: dict[str, Tensor]) -> Tensor:
    found = [gradient.double().flatten() for gradient in gradients.values()]
    return torch.cat(found) if found else torch.zeros(1, dtype=torch.float64)


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().sum().sqrt() / other.square().sum().sqrt().clamp(min=1e-9))
