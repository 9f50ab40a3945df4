"""FSDP2 in four processes: all its options, with checkpointing and compilation, against one process."""

import json
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from blockformer.errors import UserError
from blockformer.training.parallel.strategy import ShardedStrategy
from tests.training.parallel.sharding import CASES, WORLD, work


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is wrong with each case."""
    folder = tmp_path_factory.mktemp("sharding")
    mp.spawn(work, (str(folder),), nprocs=WORLD)
    return json.loads(Path(folder, "found.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_sharded_model_trains_like_a_whole_one(name: str, found: dict[str, str]) -> None:
    assert found[name] == "", found[name]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"replicas": 3}, "replicas 3 does not divide the 4 processes"),
        ({"replicas": 0}, "replicas 0 does not divide"),
        ({"reshard_after_forward": 3}, "a number above 1 and below 4 that divides it"),
        ({"replicas": 2, "reshard_after_forward": 2}, "parameters are sharded 2 ways"),
        ({"prefetch": -1}, "prefetch -1: must be at least 0"),
        ({"replicas": 4}, "no parameter is sharded"),
        ({"loss_parallel": True}, "have no effect without tensor_parallel"),
        ({"sequence_parallel": True}, "have no effect without tensor_parallel"),
        ({"tensor_parallel": None, "prefetch": 1}, "no parameter is sharded"),
    ],
)
def test_options_that_do_not_fit_the_processes_are_refused(given: dict[str, int], message: str) -> None:
    strategy = ShardedStrategy(**given)
    strategy.parallel_devices = [torch.device("cpu")] * WORLD
    with pytest.raises(UserError, match=message):
        strategy.check_sharding()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tensor_parallel": None},
        {"replicas": 2, "prefetch": 2},
        {"reshard_after_forward": 2},
        {"tensor_parallel": 2, "sequence_parallel": True, "loss_parallel": True},
    ],
)
def test_options_that_fit_the_processes_are_taken(given: dict[str, int]) -> None:
    strategy = ShardedStrategy(**given)
    strategy.parallel_devices = [torch.device("cpu")] * WORLD
    strategy.check_sharding()
