"""Ways to draw initial values."""

from typing import Any, get_args

import torch

from blocks.base import Init, Role
from blocks.conformance.example import restart_chance
from blocks.conformance.subject import Subject
from blocks.init.keyed import generator


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


def _init(subject: Subject) -> Init:
    made: Any = subject.spec()
    assert isinstance(made, Init)
    return made


def _drawn(init: Init, role: Role, seed: int, shape: tuple[int, ...] = (8, 6)) -> torch.Tensor:
    values = torch.full(shape, torch.nan)
    init.draw(values, role, 2, generator(seed, "weight"))
    return values
