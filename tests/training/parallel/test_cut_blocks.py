import json
from pathlib import Path

import pytest
import torch

from blockformer.conformance.subject import Subject
from tests.training.parallel.cutting import PARTS, cuttable, work

SUBJECTS = cuttable()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is wrong with each block; all are cut by one pair of processes, as starting one takes seconds."""
    folder = tmp_path_factory.mktemp("meeting")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=PARTS)
    return json.loads(Path(folder, "found.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.id)
def test_gives_the_same_when_cut(subject: Subject, found: dict[str, str]) -> None:
    assert not found[subject.id], found[subject.id]


def test_what_can_be_cut_is_found() -> None:
    known = {subject.id.partition("[")[0] for subject in SUBJECTS}
    assert known >= {"mixer/attention/causal", "mixer/attention/cross", "mixer/latent/causal", "mixer/linear/causal"}
    assert known >= {"feedforward/mlp", "feedforward/glu", "feedforward/moe", "layer/parallel/causal"}
