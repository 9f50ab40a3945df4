"""Initial values: distribution, and dependence on seed and name only."""

from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from blockformer.conformance.block_case import BlockCase, NotApplicable
from blockformer.conformance.example import example, reset_rng, run
from blocks.base import Component, Init, Role, Stack, WidthMultipliers
from blocks.init.keyed import generator, initialise
from blocks.init.schemes import Normal
from blocks.init.width import width_multipliers
from blocks.models.base import Model
from registry import entries


def check_init_uses_only_its_generator(case: BlockCase) -> None:
    """The same generator gives the same values for every role, another one gives others; torch's own is not used."""
    init = _init(case)
    for role in get_args(Role):
        reset_rng()
        before = torch.get_rng_state()
        first, second, third = (_drawn(init, role, seed) for seed in (0, 0, 1))
        assert torch.equal(first, second), f"{role}: the same generator gives other values"
        assert not torch.equal(first, third), f"{role}: another generator gives the same values"
        assert torch.equal(before, torch.get_rng_state()), f"{role}: torch's own generator was used"


def check_init_fills_every_value(case: BlockCase) -> None:
    """Every value is set, with a mean near 0, for two and three axes."""
    init = _init(case)
    for role in get_args(Role):
        for shape in ((64, 48), (3, 32, 48)):
            values = _drawn(init, role, 0, shape)
            assert bool(torch.isfinite(values).all()), f"{role}: some values of shape {shape} are not set"
            assert float(values.mean().abs()) < 0.2 * float(values.std()), (
                f"{role}: the mean of the values is not near 0"
            )


def check_init_draws_the_declared_deviation(case: BlockCase) -> None:
    """For each role, shape and depth, values have the standard deviation that ``deviation`` gives."""
    init = _init(case)
    for role in get_args(Role):
        for shape, depth in (((96, 64), 1), ((64, 96), 3), ((3, 64, 96), 12)):
            values = torch.empty(shape)
            init.draw(values, role, depth, generator(0, role))
            _assert_deviation(values, init.deviation(shape, role, depth), f"{role} of shape {shape}, depth {depth}")


def check_model_starts_with_the_declared_deviation(case: BlockCase) -> None:
    """With each init, weights of a model have the declared standard deviation; constants and biases are exact."""
    for name in entries("init"):
        model = case.put(("init",), {"type": name}).construct()
        assert isinstance(model, Model)
        model.initialise(0)
        parts = dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))
        widths = {} if model.init.base_width is None else width_multipliers(model)
        for path, parameter in model.named_parameters():
            _assert_starts(parts, path, parameter.detach(), model.init, widths.get(path))


def _assert_starts(
    parts: Mapping[str, nn.Module], path: str, values: Tensor, init: Init, width: WidthMultipliers | None
) -> None:
    where, _, leaf = path.rpartition(".")
    owner = parts[where]
    constants = owner.constants() if isinstance(owner, Component) else dict[str, float]()
    if leaf in constants or leaf == "bias":
        wanted = torch.tensor(constants.get(leaf, 0.0), dtype=values.dtype).expand_as(values)
        assert torch.equal(values, wanted), f"{path} does not start at the value of constants()"
        return
    if isinstance(owner, Component) and (own := owner.deviations().get(leaf)) is not None:
        _assert_deviation(values, own, path)
        return
    above, _, child = where.rpartition(".")
    outputs = getattr(parts[above], "outputs", ())
    role: Role = "embedding" if isinstance(owner, nn.Embedding) else "output" if child in outputs else "matrix"
    depth = _depth(parts, where)
    factor = 1.0 if width is None else init.width_factor(values.shape, role, depth, width)
    _assert_deviation(values, factor * init.deviation(values.shape, role, depth), f"{path} ({role})")


def _depth(parts: Mapping[str, nn.Module], path: str) -> int:
    """The depth of the stack around a module; 1 outside of stacks."""
    above = [parts[path[:end]] for end in range(len(path)) if path[end] == "."]
    return next((stack.depth for stack in reversed(above) if isinstance(stack, Stack)), 1)


def _assert_deviation(values: Tensor, declared: float, what: str) -> None:
    """Assert the deviation and a mean of 0, each within five standard errors of a normal distribution."""
    count = values.numel()
    found, mean = float(values.square().mean().sqrt()), float(values.mean())  # around 0, so that one value is enough
    assert abs(found - declared) <= 5 * declared * (2 * count) ** -0.5, (
        f"{what}: deviation {found:.4g}, declared: {declared:.4g}"
    )
    assert abs(mean) <= 5 * declared * count**-0.5, f"{what}: the mean is {mean:.4g}, not near 0"


def _init(case: BlockCase) -> Init:
    made: Any = case.spec()
    assert isinstance(made, Init)
    return made


def _drawn(init: Init, role: Role, seed: int, shape: tuple[int, ...] = (8, 6)) -> torch.Tensor:
    values = torch.full(shape, torch.nan)
    init.draw(values, role, 2, generator(seed, "weight"))
    return values


def check_gives_zero_if_its_outputs_are_zero(case: BlockCase) -> None:
    """If the weights of all ``outputs`` are 0, the block starts by giving 0, or says that it does not."""
    block: Component = case.construct()
    if not block.zero_at_zero:
        raise NotApplicable("the block says that it does not")
    initialise(block, Normal(), 0)
    named = list[str]()
    with torch.no_grad():
        for path, inner in block.components():
            for output in inner.outputs:
                named.append(f"{path}.{output}".lstrip("."))
                for parameter in cast("nn.Module", inner.get_submodule(output)).parameters():
                    parameter.zero_()
    largest = float(run(block.double().eval(), example(case)).detach().abs().max())
    assert largest == 0, (
        f"with the weights of its outputs ({', '.join(named) or 'none are named'}) at 0 it gives {largest:.3g}; "
        "name in `outputs` all modules whose result is added to the residual stream, or let zero_at_zero be False"
    )


def check_initial_values_depend_on_seed_and_name_only(case: BlockCase) -> None:
    """Replacing one child block leaves the initial values of all other parameters bit-identical."""
    values = _initial(case)
    differing = {name for name, tensor in _initial(case, seed=1).items() if not torch.equal(tensor, values[name])}
    constants = _constants(case)
    if not values.keys() - constants:
        raise NotApplicable("the block has no random initial values")
    constant = {name for name, tensor in values.items() if bool((tensor == tensor.flatten()[0]).all())}
    fixed = sorted(set(values) - differing - constant - constants)
    assert not fixed, f"another seed gives the same values: {fixed}"
    for changed in _neighbours(case):
        drawn = values.keys() - constants - _constants(changed)
        for name, tensor in _initial(changed).items():
            if name in drawn and values[name].shape == tensor.shape:
                assert torch.equal(tensor, values[name]), f"{changed.id}: {name} has other initial values"


def _constants(case: BlockCase) -> set[str]:
    """Parameters that start at constants."""
    owners = case.construct().components()
    return {f"{path}.{name}".lstrip(".") for path, owner in owners for name in owner.constants()}


def _initial(case: BlockCase, seed: int = 0) -> dict[str, Tensor]:
    block: Component = case.construct()
    if isinstance(block, Model):
        block.initialise(seed)
    else:
        initialise(block, Normal(), seed)
    return {name: parameter.detach() for name, parameter in block.named_parameters()}


def _neighbours(case: BlockCase) -> list[BlockCase]:
    """The case with another block in each of its slots, where that is valid."""
    found: list[BlockCase] = []
    for path, spec in case.spec.walk():
        slot = spec.entry.slot
        others = [name for name in entries(slot) if name != spec.entry.name]
        if not path or slot == "init" or not others:
            continue
        changed = case.put(path, {"type": others[0]})
        try:
            changed.construct()
        except ValueError:
            continue
        found.append(changed)
    return found
