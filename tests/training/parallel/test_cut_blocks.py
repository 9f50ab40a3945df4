import json

import pytest
import torch
from filelock import FileLock

from blockformer.conformance.block_case import BlockCase
from tests.training.parallel.cutting import PARTS, cuttable, has_stack, key, work


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Finding the cases takes seconds: it is left out where the slow tests are."""
    if "case" in metafunc.fixturenames:
        chosen = [] if metafunc.config.getoption("markexpr") == "not slow" else cuttable()
        metafunc.parametrize("case", chosen, ids=lambda case: case.id)


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> dict[str, str]:
    """What is wrong with each block; all are cut by one pair of processes, as starting one takes seconds.

    The pair works for all workers of pytest: those that come second wait for it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "cut_blocks"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "found.json").exists():
            folder.mkdir(exist_ok=True)
            torch.multiprocessing.spawn(work, (str(folder),), nprocs=PARTS)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
def test_gives_the_same_when_cut(case: BlockCase, found: dict[str, str]) -> None:
    assert not found[key(case, tokens=False)], found[case.id]


@pytest.mark.slow
def test_gives_the_same_when_tokens_are_split_between_sublayers(case: BlockCase, found: dict[str, str]) -> None:
    if not has_stack(case):
        pytest.skip("the block has no sublayers")
    assert not found[key(case, tokens=True)], found[key(case, tokens=True)]


@pytest.mark.slow
def test_what_can_be_cut_is_found() -> None:
    known = {case.id.partition("[")[0] for case in cuttable()}
    assert known >= {
        "mixer/attention/causal",
        "mixer/cross_attention/cross",
        "mixer/latent/causal",
        "mixer/linear/causal",
    }
    assert known >= {"feedforward/mlp", "feedforward/glu", "feedforward/moe", "layer/parallel/causal"}
