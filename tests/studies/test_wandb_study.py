"""What a study leaves in W&B, read back from what is kept offline."""

import json
from pathlib import Path
from typing import Any

import pytest
import wandb

from blockformer.cli.main import main
from blockformer.files import write_text
from blockformer.studies.report import as_html
from blockformer.studies.run import Run
from blockformer.studies.run_labels import run_settings
from blockformer.studies.tables import as_csv, as_markdown
from blockformer.studies.wandb_study import place_lines, publish
from blockformer.training.run_folder import RunSettings
from tests.studies.made_up import STUDY, made_up, planned
from tests.training.wandb_log import read_run

OFFLINE = ["--run.wandb", "offline"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a study"


def written(folder: Path, **changes: Any) -> dict[str, Any]:
    results = made_up(planned(**changes))
    texts = {"json": json.dumps(results), "csv": as_csv(results), "md": as_markdown(results)}
    for name, text in texts.items():
        write_text(folder / f"results.{name}", text)
    write_text(folder / "report.html", as_html(results))
    return results


@pytest.mark.slow
def test_one_run_of_the_group_holds_tables_plots_and_files(folder: Path) -> None:
    results = written(folder)
    publish(results, folder, folder / "runs", OFFLINE)
    logged = read_run(folder / "wandb")
    assert (logged.run.run_group, logged.run.job_type, logged.run.display_name) == ("study", "report", "study-report")
    assert logged.config["plan"]["hash"] == results["plan"]["hash"]
    (row,) = logged.history
    kinds = {name.removesuffix("._type"): kind for name, kind in row.items() if name.endswith("._type")}
    assert {kinds[name] for name in ("variants", "verdicts", "runs")} == {"table-file"}
    assert kinds["plots/effects"] == kinds["plots/over_tokens"] == "plotly-file"
    assert kinds["report"] == "html-file"
    assert logged.summary["verdict/none"] == "worse"
    assert ("study", f"study-{logged.run.run_id}") in logged.artifacts
    media = next(folder.glob("wandb/offline-run-*")) / "files"
    table = json.loads((media / row["verdicts.path"]).read_text())
    assert table["data"][0][:2] == ["relu2", results["verdicts"]["relu2"]["verdict"]]

    assert place_lines(folder) == [f"W&B, offline: upload it with `wandb sync '{folder}'/wandb/offline-run-*`"]
    publish(results, folder, folder / "runs", OFFLINE)
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1  # nothing has changed


@pytest.mark.slow
def test_figures_of_the_test_split_reach_the_summaries_of_their_runs(folder: Path) -> None:
    results = written(folder, figure="test/loss", seeds=1)
    one = next(run for run in results["runs"] if run["variant"] == "none")
    home = folder / "runs" / one["id"]
    write_text(home / "wandb.id", "abcd1234\n")
    write_text(home / "facts.json", json.dumps({"variant": "none", "seed": 0}))
    publish(results, folder, folder / "runs", OFFLINE)
    logged = read_run(home / "wandb")
    assert (logged.run.run_id, logged.run.run_group, logged.run.job_type) == ("abcd1234", "study", "none")
    assert logged.config["variant"] == "none"
    assert logged.summary["test/loss"] == one["figure"]


def test_a_run_is_labelled_with_study_variant_seed_and_rate() -> None:
    (run, *_) = planned(seeds=[7]).answer_runs()
    assert isinstance(run, Run)
    settings = RunSettings(**run_settings(run, "heads"))
    assert (settings.group, settings.job_type, settings.tags) == ("heads", "base", ["heads", "base", "seed7", "answer"])
    rate = 1e-3
    assert settings.about == {
        "study": "heads",
        "variant": "base",
        "seed": 7,
        "learning_rate": rate,
        "purpose": "answer",
    }


def test_a_failure_of_wandb_is_one_line_and_stops_no_study(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def init(**settings: Any) -> Any:
        raise wandb.errors.CommError("no\nspace")

    monkeypatch.setattr(wandb, "init", init)
    publish(written(folder), folder, folder / "runs", OFFLINE)
    said = capsys.readouterr().err
    assert said == f"W&B failed (CommError: no); {folder} is complete without it\n"
    assert place_lines(folder) == []


def test_a_study_without_wandb_leaves_nothing_of_it(folder: Path) -> None:
    publish(written(folder), folder, folder / "runs", ["--run.wandb=disabled"])
    assert not (folder / "wandb").exists()


@pytest.mark.slow
def test_the_runs_of_a_study_are_a_group_by_variant_seed_and_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"tokenizer": "bytes", "length": 16, "max_bytes": 20000, "batch_size": 4}
    fit = {"data": data, "optimizer": {"lr": 0.01}, "trainer": {"max_steps": 2}}
    study = STUDY | {"variants": {"none": STUDY["variants"]["none"]}, "seeds": [3], "fit": fit}
    (tmp_path / "which.yaml").write_text(json.dumps(study))
    out = tmp_path / "out"
    assert main(["compare", str(tmp_path / "which.yaml"), "--out", str(out), *OFFLINE]) == 0
    logged = {run.config["variant"]: run for run in (read_run(home / "wandb") for home in (out / "runs").iterdir())}
    results = {run["variant"]: run for run in json.loads((out / "results.json").read_text())["runs"]}
    assert set(logged) == set(results) == {"base", "none"}
    for variant, run in logged.items():
        assert (run.run.run_group, run.run.job_type) == ("which", variant)
        assert set(run.run.tags) == {"which", variant, "seed3", "answer"}
        assert {key: run.config[key] for key in ("study", "seed", "learning_rate")} == {
            "study": "which",
            "seed": 3,
            "learning_rate": 0.01,
        }
        assert run.config["recipe"]["decoder"]["layer"]["feedforward"]["type"] in ("none", "glu")
        assert run.summary["val/bits_per_byte"] == results[variant]["figure"]
    said = capsys.readouterr().out
    assert f"`wandb sync {out}/runs/*/wandb/offline-run-* {out}/wandb/offline-run-*`" in said
