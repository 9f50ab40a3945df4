"""What a recipe says about a block shows in what the block does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from blockformer.assembly.unused_keys.module_equality import same
from blockformer.conformance.example import example, restart_chance
from blockformer.conformance.gradients import gradients_of
from blockformer.conformance.running import run
from blockformer.conformance.subject import MAX_LENGTH, Subject
from blockformer.conformance.variants import variants
from blocks.base import Component, Router
from blocks.init.keyed import initialise
from blocks.init.schemes import Xavier
from blocks.models.base import Model
from registry import entries

SIZES = (0.01, 30.0)
Observation = Callable[[Subject, Component], list[Tensor]]


def check_reads_what_it_keeps(subject: Subject) -> None:
    """Where another value of a parameter builds another block, that block behaves differently.

    One that keeps a setting which it does not use would let recipes say it as if it mattered.
    """
    with torch.device("meta"):
        plain = subject.make()
        kept = [changed for changed in _settings(subject) if not same(plain, changed.make())]
    idle = [changed.id for changed in kept if not _differ(subject, changed)]
    assert not idle, f"kept without any effect: {', '.join(idle)}; keep a setting only where it is used"


def _settings(subject: Subject) -> list[Subject]:
    """The variants that differ in a plain value: of blocks, one may well stand for nothing."""
    parameters = entries(subject.slot)[subject.name].parameters

    def opens(changed: Subject) -> bool:
        said = [name for name, value in changed.params.items() if value != subject.params.get(name)]
        return any(parameters[name].slot for name in said)

    return [changed for changed in variants(subject) if not opens(changed)]


def _differ(one: Subject, other: Subject) -> bool:
    """Whether anything shows a difference; what neither can be asked shows none, and if that is all, nobody knows."""
    seen = [(_outcome(observe, one), _outcome(observe, other)) for observe in OBSERVATIONS]
    return any(a != b for a, b in seen) or all(a is None for a, _ in seen)


def _outcome(observe: Observation, subject: Subject) -> object:
    """What is seen, as numbers that can be compared exactly; None: it cannot be run."""
    try:
        seen = observe(subject, subject.build())
    except ValueError:
        return None
    return [(tensor.shape, tensor.dtype, cast("Any", tensor).tolist()) for tensor in seen]


def _results(subject: Subject, block: Component) -> list[Tensor]:
    short, long = example(subject), example(subject, length=2 * MAX_LENGTH)
    return [run(block, short), *([run(block, long)] if block.capabilities.any_length else [])]


def _results_of_other_sizes(subject: Subject, block: Component) -> list[Tensor]:
    given = example(subject)
    return [] if subject.reads_ids else [run(block, replace(given, x=size * given.x)) for size in SIZES]


def _structure(subject: Subject, block: Component) -> list[Tensor]:
    if isinstance(block, Model):
        block.initialise(0)
    else:
        initialise(block, Xavier(), 0)
    return list(block.state_dict().values())


def _training(subject: Subject, block: Component) -> list[Tensor]:
    given = example(subject)
    restart_chance()
    result = run(block.train(), given)
    routers = [module for module in block.modules() if isinstance(module, Router)]
    losses = [loss for router in routers if (loss := router.auxiliary_loss(lambda tensor: tensor)) is not None]
    for router in routers:
        router.update()
    return [result, *losses, *(value.clone() for value in block.state_dict().values())]


def _gradients(subject: Subject, block: Component) -> list[Tensor]:
    return list(gradients_of(block, example(subject)).values())


OBSERVATIONS: tuple[Observation, ...] = (_results, _structure, _results_of_other_sizes, _training, _gradients)
