"""Every stored setting and every auxiliary loss has an effect, and no-op values have none."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from blockformer.assembly.unused_keys.module_equality import certainly_equal
from blockformer.conformance.block_case import DIM, MAX_LENGTH, BlockCase, NotApplicable, Path
from blockformer.conformance.checks.training import floating, gradients_of
from blockformer.conformance.example import CLOSE, assert_same, example, reset_rng, run
from blockformer.conformance.variants import allowed, variants
from blocks.attention.key_selector import KeySelector
from blocks.base import Component, Router
from blocks.init.keyed import initialise
from blocks.init.schemes import Xavier
from blocks.models.base import Model
from registry import entries

INPUT_SCALES = (0.01, 30.0)
Observation = Callable[[BlockCase, Component], list[Tensor]]

NO_OP_VALUES: Mapping[str, Any] = {
    "window": MAX_LENGTH,
    "kv_heads": "heads",
    "value_heads": "heads",
    "clip": 1e15,
    "softcap": 1e15,
    "width": DIM,
    "distinct": "depth",
    "top_groups": "groups",
}
"""For a key that is null: a value with the same meaning; a string is the key beside it that holds the value."""


def check_every_stored_setting_has_an_effect(case: BlockCase) -> None:
    """If another value of a parameter builds a different module, the module also behaves differently.

    A setting that is stored and not used would pass the search for unused keys of a recipe.
    """
    with torch.device("meta"):
        plain = case.construct()
        stored = [changed for changed in _setting_variants(case) if not certainly_equal(plain, changed.construct())]
    differ = {changed.id: _behave_differently(case, changed) for changed in stored}
    unused = [name for name, different in differ.items() if different is False]
    assert not unused, f"stored without any effect: {', '.join(unused)}; store a setting only where it is used"
    if True not in differ.values():
        raise NotApplicable("no setting changes the module")


def _setting_variants(case: BlockCase) -> list[BlockCase]:
    """The variants that differ in a plain value; another child block may well compute the same."""
    parameters = entries(case.slot)[case.name].parameters

    def changes_a_block(changed: BlockCase) -> bool:
        keys = [key for key, value in changed.params.items() if value != case.params.get(key)]
        return any(parameters[key].slot for key in keys)

    return [changed for changed in variants(case) if not changes_a_block(changed)]


def _behave_differently(one: BlockCase, other: BlockCase) -> bool | None:
    """Whether any observation differs; None if neither case can be run."""
    seen = [(_observed(observe, one), _observed(observe, other)) for observe in OBSERVATIONS]
    if any(a != b for a, b in seen):
        return True
    return None if all(a is None for a, _ in seen) else False


def _observed(observe: Observation, case: BlockCase) -> object:
    """The observation as data that can be compared exactly; None if the case cannot be run."""
    try:
        seen = observe(case, case.build_perturbed())
    except ValueError:
        return None
    return [(tensor.shape, tensor.dtype, cast("Any", tensor).tolist()) for tensor in seen]


def _outputs(case: BlockCase, block: Component) -> list[Tensor]:
    short, long = example(case), example(case, length=2 * MAX_LENGTH)
    return [run(block, short), *([run(block, long)] if block.capabilities.any_length else [])]


def _outputs_of_scaled_inputs(case: BlockCase, block: Component) -> list[Tensor]:
    given = example(case)
    return [] if case.reads_ids else [run(block, replace(given, x=scale * given.x)) for scale in INPUT_SCALES]


def _initial_values(case: BlockCase, block: Component) -> list[Tensor]:
    if isinstance(block, Model):
        block.initialise(0)
    else:
        initialise(block, Xavier(), 0)
    return list(block.state_dict().values())


def _training_step(case: BlockCase, block: Component) -> list[Tensor]:
    given = example(case)
    reset_rng()
    result = run(block.train(), given)
    routers = [module for module in block.modules() if isinstance(module, Router)]
    learners = [module for module in block.modules() if isinstance(module, Router | KeySelector)]
    losses = [loss for part in learners if (loss := part.auxiliary_loss(lambda tensor: tensor)) is not None]
    for router in routers:
        router.update()
    return [result, *losses, *(value.clone() for value in block.state_dict().values())]


def _gradients(case: BlockCase, block: Component) -> list[Tensor]:
    return list(gradients_of(block, example(case)).values())


OBSERVATIONS: tuple[Observation, ...] = (
    _outputs,
    _initial_values,
    _outputs_of_scaled_inputs,
    _training_step,
    _gradients,
)


def check_no_op_values_change_nothing(case: BlockCase) -> None:
    """Where a key is null, a value with the same meaning (a window over everything, ...) gives the same output."""
    block, given = case.build_perturbed(), example(case)
    expected, no_ops, together = run(block, given), list(_no_ops(case)), case
    for path, value in no_ops:
        together = together.put(path, value)
    candidates = [(together, ", ".join(f"{'.'.join(map(str, path))}={value}" for path, value in no_ops))]
    if not allowed(together):
        candidates = [(case.put(path, value), f"{'.'.join(map(str, path))}={value}") for path, value in no_ops]
    candidates = [(changed, what) for changed, what in candidates if no_ops and allowed(changed)]
    for changed, what in candidates:
        other = changed.build_perturbed()
        other.load_state_dict(block.state_dict(), strict=True)
        assert_same(run(other, given), expected, what, CLOSE)
    if not candidates:
        raise NotApplicable("no key is null and has a value with the same meaning")


def _no_ops(case: BlockCase) -> Iterator[tuple[Path, Any]]:
    """The path of each null key that has a no-op value, and that value."""
    for key, value in NO_OP_VALUES.items():
        for path in case.keys(key):
            beside = case.at(path[:-1])
            no_op = beside.get(value) if isinstance(value, str) else value
            if no_op is not None and beside[key] is None:
                yield path, no_op


def check_auxiliary_loss_reaches_every_parameter(case: BlockCase) -> None:
    """In training, a key selector has a loss with a gradient for each parameter and none for its inputs, or no loss.

    Parameters of one without a loss have no gradients at all.
    """
    block, given = case.build_perturbed().train(), floating(example(case))
    assert isinstance(block, KeySelector)
    run(block, given)
    loss = block.auxiliary_loss(lambda tensor: tensor)
    assert (loss is not None) == block.learns, f"learns is {block.learns}, but the auxiliary loss is {loss}"
    learned = [name for name, parameter in block.named_parameters() if parameter.requires_grad]
    if loss is None:
        assert not learned, f"without a loss, {learned[0]} stays as it is, but has requires_grad"
        raise NotApplicable("the selector has no loss")
    loss.backward()
    assert given.x.grad is None, "the loss has a gradient for the inputs, which the model's own loss trains"
    for name, parameter in block.named_parameters():
        gradient = parameter.grad
        reached = gradient is not None and bool(gradient.any()) and bool(torch.isfinite(gradient).all())
        assert reached, f"the loss has no finite gradient for {name}"
