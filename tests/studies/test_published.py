"""The published studies: every verdict follows from the published runs, and the pages from the results."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study_pages import PAGES, RESULTS, draw, index, page, shortened, tasks_of
from blockformer.cli.main import main
from blockformer.studies.figures import higher_is_better
from blockformer.studies.statistics import judge
from blockformer.studies.study import read_study
from tests.studies.made_up import made_up, planned

STUDIES = Path(__file__).parents[2] / "studies"
FILES = sorted(STUDIES.glob("*.yaml"))
PUBLISHED = sorted(RESULTS.glob("*.json"))


def results_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_study_and_its_quick_tier_can_be_run(path: Path) -> None:
    whole, quick = read_study(path), read_study(path, tier="quick")
    assert whole.file.question.endswith("?")
    for long, short in zip(whole.tasks or (whole,), quick.tasks or (quick,), strict=True):
        assert long.file.fit["trainer"]["max_steps"] > short.file.fit["trainer"]["max_steps"]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_every_verdict_follows_from_the_runs(path: Path) -> None:
    for part in tasks_of(results_of(path)).values():
        scores: dict[str, dict[int, float]] = {}
        for run in part["runs"]:
            figure = math.inf if run["figure"] is None else run["figure"]
            scores.setdefault(run["variant"], {})[run["seed"]] = figure
        better = higher_is_better(part["figure"])
        found = judge(scores, "base", smallest=part["smallest"], higher_is_better=better).verdicts
        for name, verdict in part["verdicts"].items():
            if verdict["verdict"] != "identical":
                assert found[name].verdict == verdict["verdict"], name
                for key in ("difference", "low", "high", "p"):
                    assert getattr(found[name], key) == pytest.approx(verdict[key], abs=1e-9), (name, key)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_the_study_was_not_changed_after_its_first_run(path: Path) -> None:
    study = read_study(STUDIES / f"{path.stem}.yaml")
    parts = tasks_of(results_of(path))
    assert set(parts) == ({part.name.rpartition("/")[2] for part in study.tasks} or {path.stem})
    for part in parts.values():
        assert not part["exploratory"]


def test_the_pages_are_those_of_the_results() -> None:
    studies = {path.stem: results_of(path) for path in PUBLISHED}
    for name, results in studies.items():
        assert (PAGES / f"{name}.md").read_text(encoding="utf-8") == page(results)
        assert (PAGES / f"{name}.svg").stat().st_size > 1000
    if studies:
        assert (PAGES / "index.md").read_text(encoding="utf-8") == index(studies)


def test_a_page_has_the_question_the_verdicts_the_limits_and_a_figure(tmp_path: Path) -> None:
    results = made_up(planned(limits="Made up."))
    kept = shortened({**results, "command": ["blockformer", "compare", "/home/somebody/study.yaml"]})
    assert "/home/" not in json.dumps(kept)
    assert all("curve" not in run for run in kept["runs"])
    text = page(kept)
    for part in ("# Which feed-forward?", "none is worse than the base", "same builds the same model", "Made up."):
        assert part in text
    assert f"[{kept['question']}](study.md)" in index({"study": kept})
    draw(kept, tmp_path / "study.svg")
    drawn = (tmp_path / "study.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    draw(kept, tmp_path / "again.svg")
    assert drawn == (tmp_path / "again.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_study_says_what_its_answer_does_not_hold_for(path: Path) -> None:
    assert all(part.file.limits for part in (read_study(path).tasks or (read_study(path),)))


TWICE = ("feedforward",)  # its quick tier is judged, too: two seeds of each run


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_quick_tier_of_a_study_comes_to_verdicts(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first task, where there are several: the others differ in data and sizes alone. A few steps of each run."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = read_study(path)
    first = [f"--task={part.name.rpartition('/')[2]}" for part in study.tasks[:1]]
    data = (study.tasks or (study,))[0].file.fit["data"]  # preparing all of it takes longer than the runs
    first += [f"--data.{key}={less}" for key, less in (("max_bytes", 200_000), ("pairs", 2000)) if key in data]
    options = ["--tier", "quick", "--out", str(tmp_path / "out"), "--no-speed", "--run.wandb", "disabled"]
    seeds = 2 if path.stem in TWICE else 1
    options += ["--seeds", str(seeds), "--trainer.max_steps", "4", "--trainer.val_check_interval", "2"]
    options += ["--trainer.limit_val_batches", "2"]
    assert main(["compare", str(path), *first, *options]) == 0
    (part,) = tasks_of(results_of(tmp_path / "out" / "results.json")).values()
    assert part["verdicts"] or seeds == 1
    assert all(verdict["seeds"] == seeds for verdict in part["verdicts"].values())
    assert {run["status"] for run in part["runs"]} == {"finished"}
    assert "</html>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
