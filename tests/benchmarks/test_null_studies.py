"""Studies of one model find differences as rarely as they promise."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.null_studies import ORDERS, SALTS, measured, runs

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "results" / "null_studies.json"


def test_the_runs_differ_in_initial_values_and_share_the_order() -> None:
    made = runs()
    assert len({run.settings["model"]["seed"] for run in made}) == len({run.id for run in made}) == ORDERS * SALTS
    assert {run.settings["data"]["seed"] for run in made} == set(range(ORDERS))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_is_found_as_often_as_promised(seed: int) -> None:
    random = np.random.default_rng(seed)
    table = random.normal(0, 0.02, (ORDERS, SALTS)) + random.normal(0, 0.1, (ORDERS, 1))
    found = measured(table.tolist(), 200)
    assert found["found"] <= found["bound"]
    assert found["detected"] > 120


@pytest.mark.slow
def test_the_published_figures_follow_from_the_published_runs() -> None:
    data = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    assert np.shape(data["table"]) == (ORDERS, SALTS)
    again = measured(data["table"])
    assert again == pytest.approx({key: data[key] for key in again})
    assert data["found"] <= data["bound"]
