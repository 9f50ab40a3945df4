"""The measurements on a GPU run at toy sizes on a CPU, and lose nothing when time runs out."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_models import CASES, FULL, TOY, Case

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def test_documents_are_numbered_from_the_first_to_the_last() -> None:
    found = gpu.documents(3, 64, CPU)
    assert found.shape == (3, 64)
    assert bool((found.diff(dim=1) >= 0).all())
    assert found.max() < gpu.DOCUMENTS


@pytest.mark.parametrize("name", FULL)
def test_a_contestant_of_transformers_has_our_size(name: str) -> None:
    pytest.importorskip("transformers")
    ours, (theirs, _) = TOY[name].ours(32, CPU), TOY[name].of_transformers(32, CPU)
    assert ours.size == sum(parameter.numel() for parameter in theirs.parameters())


@pytest.mark.slow
def test_the_decoder_by_hand_has_our_size_and_is_measured_beside_ours() -> None:
    assert TOY["llama"].ours(32, CPU).size == sum(p.numel() for p in TOY["llama"].by_hand(CPU).parameters())
    found = gpu.training(Case("llama", 32, others=("by hand",)), TOY["llama"], 64, CPU, 1)
    assert set(found["contestants"]) == {"ours", "by hand"}
    assert all(one["tokens_per_second"] > 0 for one in found["contestants"].values())


@pytest.mark.slow
def test_cases_are_left_out_when_time_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--toy", "--turns", "1", "--limit", "-1", "--out", str(out)])
    gpu.main()
    found = json.loads(out.read_text())
    assert len(found["left_out"]) == len(CASES) + 2
    assert found["training"] == []
    assert found["toy"]


def test_some_cases_are_measured_again_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    given = ["gpu", "--toy", "--out", str(out)]

    def measured(rate: float) -> None:
        def training(case: Case, *_: object) -> dict[str, object]:
            return {"case": case.name, "rate": rate}

        monkeypatch.setattr(gpu, "training", training)
        monkeypatch.setattr(gpu, "attention", lambda length, *_: [{"length": length}])
        gpu.main()

    monkeypatch.setattr(sys, "argv", given)
    measured(1.0)
    monkeypatch.setattr(sys, "argv", [*given, "--only", "documents compiled"])
    measured(2.0)
    rates = {one["case"]: one["rate"] for one in json.loads(out.read_text())["training"]}
    assert len(rates) == len(CASES)
    assert {case for case, rate in rates.items() if rate == 2.0} == {"gpt2 32 documents compiled"}
    out.write_text(out.read_text().replace('"tokens": 128', '"tokens": 256'))
    with pytest.raises(SystemExit, match="is of tokens 256, not 128: give another --out"):
        gpu.main()
    monkeypatch.setattr(sys, "argv", [*given, "--only", "gpt3"])
    with pytest.raises(SystemExit):
        gpu.main()


def test_the_documented_figures_are_the_published_ones() -> None:
    published = json.loads((ROOT / "benchmarks" / "results" / "gpu.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert not published["toy"]
    for case in published["training"]:
        for name, one in case["contestants"].items():
            assert f"{one['tokens_per_second']:,.0f}" in page, f"{case['case']}: {name}"
    for one in published["attention"]:
        assert f"{one['milliseconds']:.1f}" in page, one
