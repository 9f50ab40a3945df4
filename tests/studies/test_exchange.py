"""What a difference is worth in steps."""

import math

import pytest

from blockformer.studies.exchange import base_curve, worth
from blockformer.studies.run_result import Result


def result(variant: str, seed: int, figure: float | None) -> Result:
    status = "diverged" if figure is None else "finished"
    return Result(f"{variant}-{seed}", variant, seed, None, "answer", status, figure)


def law(share: float) -> float:
    """A loss that falls by 0.1 with each e-fold of steps."""
    return 2 - 0.1 * math.log(share)


def curve() -> list[list[float]]:
    answers = [result("base", seed, law(1) + seed) for seed in range(3)]
    budgets = [(share, result("base", seed, law(share) + seed)) for share in (0.8, 1.25) for seed in range(3)]
    return base_curve(answers, budgets, "base")


def test_a_known_law_gives_its_steps_back() -> None:
    difference = law(1.2) - law(1)
    found = worth(curve(), {"difference": difference, "low": difference - 0.001, "high": difference + 0.001})
    assert found is not None
    assert found["steps"] == pytest.approx(1.2)
    assert found["low"] == pytest.approx(1.2 * math.exp(-0.01))
    assert found["high"] == pytest.approx(1.2 * math.exp(0.01))


def test_nothing_is_said_beyond_the_budgets_or_from_a_curve_that_is_noise() -> None:
    assert worth(curve(), {"difference": -1.0, "low": -1.1, "high": -0.9}) == {"steps": None, "low": None, "high": None}
    assert worth([[0.8, 2.0], [1.0, 2.1], [1.25, 2.05]], {"difference": 0.0, "low": 0.0, "high": 0.0}) is None
    assert worth(curve()[:2], {"difference": 0.0, "low": 0.0, "high": 0.0}) is None


def test_a_seed_without_all_budgets_does_not_count() -> None:
    answers = [result("base", 0, 2.0), result("base", 1, 9.0)]
    budgets = [(0.8, result("base", 0, 2.1)), (1.25, result("base", 0, 1.9)), (1.25, result("base", 1, None))]
    assert base_curve(answers, budgets, "base") == [[0.8, 2.1], [1.0, 2.0], [1.25, 1.9]]
