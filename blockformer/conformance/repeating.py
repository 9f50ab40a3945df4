"""The same again gives the same, except for dropout in training."""

import torch
from torch import Tensor

from blockformer.assembly.unused_keys.module_equality import same
from blockformer.conformance.comparing import EXACT, assert_same
from blockformer.conformance.example import example, restart_chance
from blockformer.conformance.gradients import gradients_of
from blockformer.conformance.running import run
from blockformer.conformance.subject import Subject, chances
from blocks.base import Component
from blocks.init.keyed import initialise
from blocks.init.schemes import Normal
from blocks.models.base import Model
from registry import entries


def check_repeats_itself(subject: Subject) -> None:
    """Built from the same seed and run on the same input, values and gradients agree to the last bit."""
    given = example(subject)
    first, second = subject.build(), subject.build()
    assert_same(run(second, given), run(first, given), "a second block from the same seed", EXACT)
    again = gradients_of(second, given)
    for name, gradient in gradients_of(first, given).items():
        assert_same(again[name], gradient, f"the second time, the gradient of {name}", EXACT)


def check_drops_out_only_in_training(subject: Subject) -> None:
    """Each dropout in its recipe changes the output in training, anew each time, and never in evaluation."""
    given = example(subject)
    for path in chances(subject):
        plain, dropping = subject.put(path, 0.0).build(), subject.put(path, 0.5).build()
        if same(plain, dropping):
            continue  # said of a block that is not built here
        key = ".".join(map(str, path))
        assert_same(run(dropping, given), run(plain, given), f"in evaluation, {key}=0.5", EXACT)
        dropping.train()
        restart_chance()
        found = [run(dropping, given) for _ in range(8)]
        assert any(not torch.equal(y, run(plain, given)) for y in found), f"in training, {key}=0.5 changes nothing"
        assert any(not torch.equal(y, found[0]) for y in found), f"{key}=0.5 drops the same values each time"


def check_trains_as_it_evaluates_without_dropout(subject: Subject) -> None:
    """With no dropout, training and evaluation mode compute the same."""
    for path in chances(subject):
        subject = subject.put(path, 0.0)
    block, given = subject.build(), example(subject)
    expected = run(block, given)
    assert_same(run(block.train(), given), expected, "in training mode", EXACT)


def check_initial_values_depend_on_names_alone(subject: Subject) -> None:
    """Another block in any one of its slots leaves the initial values of all that remains bit-identical."""
    values = _initial(subject)
    differing = {name for name, tensor in _initial(subject, seed=1).items() if not torch.equal(tensor, values[name])}
    told = _told(subject)
    constant = {name for name, tensor in values.items() if bool((tensor == tensor.flatten()[0]).all())}
    fixed = sorted(set(values) - differing - constant - told)
    assert not fixed, f"another seed draws the same {fixed}"
    for changed in _neighbours(subject):
        drawn = values.keys() - told - _told(changed)
        for name, tensor in _initial(changed).items():
            if name in drawn and values[name].shape == tensor.shape:
                assert torch.equal(tensor, values[name]), f"{changed.id}: {name} starts from other values"


def _told(subject: Subject) -> set[str]:
    """Parameters that start at constants, which belong to the block that says them."""
    owners = subject.make().components()
    return {f"{path}.{name}".lstrip(".") for path, owner in owners for name in owner.constants()}


def _initial(subject: Subject, seed: int = 0) -> dict[str, Tensor]:
    block: Component = subject.make()
    if isinstance(block, Model):
        block.initialise(seed)
    else:
        initialise(block, Normal(), seed)
    return {name: parameter.detach() for name, parameter in block.named_parameters()}


def _neighbours(subject: Subject) -> list[Subject]:
    """The subject with the next block of the registry in each of its slots, where that fits."""
    found: list[Subject] = []
    for path, spec in subject.spec.walk():
        slot = spec.entry.slot
        others = [name for name in entries(slot) if name != spec.entry.name]
        if not path or slot == "init" or not others:
            continue
        changed = subject.put(path, {"type": others[0]})
        try:
            changed.make()
        except ValueError:
            continue
        found.append(changed)
    return found
