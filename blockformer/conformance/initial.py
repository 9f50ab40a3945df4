"""Ways to draw initial values."""

from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from blockformer.conformance.example import restart_chance
from blockformer.conformance.subject import Subject
from blocks.base import Component, Init, Role, Stack
from blocks.init.keyed import generator
from blocks.models.base import Model
from registry import entries


def check_draws_by_its_generator_alone(subject: Subject) -> None:
    """The same generator draws the same values for every role, and another one others; torch's own is not touched."""
    init = _init(subject)
    for role in get_args(Role):
        restart_chance()
        before = torch.get_rng_state()
        first, second, third = (_drawn(init, role, seed) for seed in (0, 0, 1))
        assert torch.equal(first, second), f"{role}: the same generator draws other values"
        assert not torch.equal(first, third), f"{role}: another generator draws the same values"
        assert torch.equal(before, torch.get_rng_state()), f"{role}: torch's own generator was used"


def check_draws_every_value(subject: Subject) -> None:
    """Each value is drawn, centred on 0, whatever the number of axes."""
    init = _init(subject)
    for role in get_args(Role):
        for shape in ((64, 48), (3, 32, 48)):
            values = _drawn(init, role, 0, shape)
            assert bool(torch.isfinite(values).all()), f"{role}: values of shape {shape} are left out"
            assert float(values.mean().abs()) < 0.2 * float(values.std()), f"{role}: values are not centred on 0"


def check_draws_as_it_says(subject: Subject) -> None:
    """What is drawn for each role, shape and depth has the deviation that the block tells."""
    init = _init(subject)
    for role in get_args(Role):
        for shape, depth in (((96, 64), 1), ((64, 96), 3), ((3, 64, 96), 12)):
            values = torch.empty(shape)
            init.draw(values, role, depth, generator(0, role))
            _assert_deviation(values, init.deviation(shape, role, depth), f"{role} of shape {shape}, depth {depth}")


def check_starts_as_it_says(subject: Subject) -> None:
    """Of each init, a model's matrices, outputs and embeddings have the deviation; constants and biases are exact."""
    for name in entries("init"):
        model = subject.put(("init",), {"type": name}).make()
        assert isinstance(model, Model)
        model.initialise(0)
        parts = dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))
        for path, parameter in model.named_parameters():
            _assert_starts(parts, path, parameter.detach(), model.init)


def _assert_starts(parts: Mapping[str, nn.Module], path: str, values: Tensor, init: Init) -> None:
    where, _, leaf = path.rpartition(".")
    owner = parts[where]
    constants = owner.constants() if isinstance(owner, Component) else dict[str, float]()
    if leaf in constants or leaf == "bias":
        wanted = torch.tensor(constants.get(leaf, 0.0), dtype=values.dtype).expand_as(values)
        assert torch.equal(values, wanted), f"{path} does not start at what its block says"
        return
    above, _, child = where.rpartition(".")
    outputs = getattr(parts[above], "outputs", ())
    role: Role = "embedding" if isinstance(owner, nn.Embedding) else "output" if child in outputs else "matrix"
    _assert_deviation(values, init.deviation(values.shape, role, _depth(parts, where)), f"{path} ({role})")


def _depth(parts: Mapping[str, nn.Module], path: str) -> int:
    """Of the stack around it: the longest list of layers on the way up, 1 outside."""
    above = [parts[path[:end]] for end in range(len(path)) if path[end] == "."]
    return next((stack.depth for stack in reversed(above) if isinstance(stack, Stack)), 1)


def _assert_deviation(values: Tensor, told: float, what: str) -> None:
    """Within five standard errors of a normal distribution, and so is the mean of 0."""
    count = values.numel()
    found, mean = float(values.square().mean().sqrt()), float(values.mean())  # around 0, so that one value will do
    assert abs(found - told) <= 5 * told * (2 * count) ** -0.5, f"{what}: deviation {found:.4g}, {told:.4g} told"
    assert abs(mean) <= 5 * told * count**-0.5, f"{what}: the mean is {mean:.4g}, far from 0"


def _init(subject: Subject) -> Init:
    made: Any = subject.spec()
    assert isinstance(made, Init)
    return made


def _drawn(init: Init, role: Role, seed: int, shape: tuple[int, ...] = (8, 6)) -> torch.Tensor:
    values = torch.full(shape, torch.nan)
    init.draw(values, role, 2, generator(seed, "weight"))
    return values
