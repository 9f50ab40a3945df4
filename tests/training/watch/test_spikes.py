"""The rule by which a step is a spike."""

import math
import random

import pytest

from blockformer.training.watch.spikes import LEAST, STEPS, SpikeRule


def noise(count: int, level: float = 3.0, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(level, 0.05 * level) for _ in range(count)]


def spikes(values: list[float], factor: float = 6.0) -> list[int]:
    rule = SpikeRule(factor)
    return [place for place, value in enumerate(values) if rule.judge(value) is not None]


def test_a_value_far_above_the_others_is_a_spike_and_the_median_is_given() -> None:
    rule = SpikeRule(6.0)
    assert [rule.judge(value) for value in [2.0] * 30] == [None] * 30
    assert rule.judge(9.0) == 2.0
    assert rule.judge(2.0) is None


@pytest.mark.parametrize("seed", range(5))
def test_normal_noise_has_no_spikes(seed: int) -> None:
    assert spikes(noise(2000, seed=seed)) == []


def test_a_falling_or_constant_curve_has_none() -> None:
    assert spikes([10 / (1 + step) for step in range(500)]) == []
    assert spikes([1.0] * 100 + [1.05] * 100) == []


def test_the_unit_does_not_matter() -> None:
    values = [*noise(60), 9.0, *noise(30, seed=1), 12.0, 12.5]
    assert spikes(values) == spikes([1e-6 * value for value in values]) == [60, 91, 92]


def test_steps_in_a_row_are_one_spike() -> None:
    rule = SpikeRule(6.0)
    for value in [*noise(40), 9.0, 9.1, 9.0, *noise(40, seed=1), 9.0]:
        rule.judge(value)
    assert rule.begun == 2


def test_a_new_level_soon_is_the_usual_one() -> None:
    found = spikes([*noise(100), *noise(200, level=9.0, seed=1)])
    assert found[0] == 100
    assert found[-1] < 100 + STEPS / 2 + 1


def test_few_steps_are_not_judged() -> None:
    assert spikes([1.0] * (LEAST - 1) + [100.0]) == []
    assert spikes([1.0] * LEAST + [100.0]) == [LEAST]


def test_what_is_not_finite_is_left_out() -> None:
    rule = SpikeRule(6.0)
    values = noise(50)
    for value in values:
        rule.judge(value)
    assert [rule.judge(value) for value in (math.nan, math.inf, -math.inf)] == [None] * 3
    assert rule.before == values
