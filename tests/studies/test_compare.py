"""A whole study: real runs, stopped and continued, shared by workers, and its reports."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

import blockformer as bf
from blockformer.cli.main import main
from blockformer.studies.execution import Executor, Watch
from blockformer.studies.plan import make_plan
from blockformer.studies.results import run_study
from blockformer.studies.run import Run
from blockformer.studies.study import read_study
from blockformer.studies.tables import as_csv, as_markdown
from blockformer.training.run_lock import LOCK

pytestmark = pytest.mark.slow
STUDY = """\
question: Which feed-forward?
base: tiny_decoder
overrides: {decoder.depth: 1}
variants:
  relu2: {decoder.layer.feedforward: {type: mlp, activation: relu2}}
  same: {decoder.layer.feedforward: {type: glu}}
match: {what: parameters, by: [decoder.layer.feedforward.hidden], within: 0.05}
seeds: 2
smallest: 0.5
figure: val/bits_per_byte
fit:
  data: {tokenizer: bytes, length: 32, max_bytes: 50000, batch_size: 8}
  optimizer: {warmup_steps: 2}
  trainer: {max_steps: 6, log_every_n_steps: 2}
"""
QUIET = ["--run.wandb", "disabled"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "which.yaml"
    path.write_text(STUDY)
    return path


def settled(results: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on time: verdicts, and the runs without their seconds."""
    runs = [{key: run[key] for key in ("id", "status", "figure")} for run in results["runs"]]
    return {"verdicts": results["verdicts"], "runs": runs, "noise": results["noise"]}


def test_a_study_is_run_judged_and_reported(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    first = make_plan(read_study(study)).answer_runs()[0].id
    assert main(["compare", str(study), "--out", str(out), "--only", first, *QUIET]) == 0
    assert f"{first} finished: " in capsys.readouterr().out
    assert [path.stem for path in (out / "results").iterdir()] == [first]
    assert not (out / "results.json").exists()
    assert main(["compare", str(study), "--out", str(out), "--add-seeds", "1", *QUIET]) == 0
    assert not (out / "looks.json").exists()  # the study's own seeds had no results
    printed, said = capsys.readouterr()
    assert "seeds 0, 1 have no results yet: they are finished first, and no others are added" in said
    assert f"{first}: begins" not in said
    results = json.loads((out / "results.json").read_text())
    assert results["verdicts"]["same"]["verdict"] == "identical"
    assert results["verdicts"]["relu2"]["seeds"] == 2
    assert {run["variant"] for run in results["runs"]} == {"base", "relu2"}
    assert not results["exploratory"]
    for text in ("relu2", "same builds the same model", "Dunnett's test"):
        assert text in printed
    page = (out / "report.html").read_text()
    assert "Which feed-forward?" in page
    assert "src=" not in page.partition("<script>")[0]
    assert (out / "results.csv").read_text() == as_csv(results)
    assert (out / "results.md").read_text() == as_markdown(results)

    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.ckpt")}
    assert settled(bf.compare(study, out=out, options=QUIET)) == settled(results)
    assert before == {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.ckpt")}

    more = bf.compare(study, out=out, options=QUIET, add_seeds=1)
    assert more["verdicts"]["relu2"]["seeds"] == 3
    assert more["looks"] == [[0, 1], [2]]
    edited = bf.compare(study, out=out, options=QUIET, changes={"smallest": 0.4})
    assert edited["exploratory"]
    assert edited["changed"] == ["smallest"]


TIMES = ("seconds", "command", "environment")


def timeless(data: Any) -> Any:
    """The content of `results.json` without what depends on time and place."""
    if isinstance(data, dict):
        return {key: timeless(value) for key, value in data.items() if key not in TIMES}
    return [timeless(item) for item in data] if isinstance(data, list) else data


def kill_all_of(folder: Path) -> None:
    """Kill the processes that have the folder among their arguments, and the owners of runs in it."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                os.kill(int(path.parent.name), signal.SIGKILL)
    for path in folder.glob(f"runs/*/{LOCK}"):
        with contextlib.suppress(OSError, ValueError):
            owner = json.loads(path.read_text())["process"]
            if b"serve(" in Path(f"/proc/{owner}/cmdline").read_bytes():  # and no other process that got its number
                os.kill(owner, signal.SIGKILL)


def test_a_study_killed_five_times_and_finished_by_two_processes_has_the_same_results(
    study: Path, tmp_path: Path
) -> None:
    def command(out: str) -> list[str]:
        compare = [sys.executable, "-m", "blockformer.cli.main", "compare", str(study), "--out", str(tmp_path / out)]
        return [*compare, "--no-speed", "--run.save_every", "2", *QUIET]

    begun = time.monotonic()
    subprocess.run(command("whole"), check=True, capture_output=True)
    duration = time.monotonic() - begun
    random = Random(time.time_ns())
    for number in range(5):
        process = subprocess.Popen(
            command("out"), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(random.uniform(0.03, 0.3) * duration)
        if number % 2:
            kill_all_of(tmp_path / "out")
        else:
            os.killpg(process.pid, signal.SIGKILL)  # its run lives on
        process.wait()
    workers = [subprocess.Popen(command("out"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    said = [worker.communicate(timeout=900)[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    whole, out = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "out"))
    assert timeless(out) == timeless(whole)
    assert len(list((tmp_path / "out" / "results").glob("*.json"))) == 4


def test_a_run_that_diverges_is_an_outcome(study: Path, tmp_path: Path) -> None:
    variants = {"hot": {"decoder.layer.feedforward": {"type": "mlp"}}}
    fit = {"optimizer.lr": 1e30, "optimizer.warmup_steps": 0}
    changes = {"variants": variants, "seeds": 1, **{f"fit.{key}": value for key, value in fit.items()}}
    results = bf.compare(study, out=tmp_path / "out", options=QUIET, changes=changes)
    assert {run["status"] for run in results["runs"]} == {"diverged"}
    assert results["verdicts"]["hot"]["diverged"] == 1
    assert results["verdicts"]["hot"]["verdict"] == "undecided"  # the base diverged too


def test_settings_that_fit_refuses_end_the_study(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.write_text(STUDY.replace("max_bytes: 50000, ", ""))
    wrong = ["--data.dataset", "text", "--data.files", "nowhere.txt"]
    assert main(["compare", str(study), "--out", str(tmp_path / "out"), *QUIET, *wrong]) == 2
    said = capsys.readouterr().err
    assert "nowhere.txt" in said
    assert said.count(": begins") == 1
    assert not (tmp_path / "out" / "results").exists()


def test_each_variant_is_judged_at_its_own_learning_rate(study: Path, tmp_path: Path) -> None:
    tried: list[str] = []

    class Tried(Watch):
        def event(self, run: Run, word: str) -> None:
            if word == "begins":
                tried.append(run.id)

    changes = {"learning_rates": [1e-4, 1e-3], "figure": "test/loss", "seeds": 1}
    plan = make_plan(read_study(study, changes=changes))
    executor = Executor(tmp_path / "out", "which", "test/loss", workers=2, options=QUIET, watch=Tried())
    results = run_study(plan, executor, tmp_path / "out")
    assert set(results["learning_rates"]) == {"base", "relu2"}
    answers = [run for run in results["runs"] if run["purpose"] == "answer"]
    assert all(run["figures"]["test/loss"] == run["figure"] for run in answers)
    assert all(run["learning_rate"] == results["learning_rates"][run["variant"]] for run in answers)
    assert any("lr0.01" in run for run in tried)  # the best was at the edge


def test_a_plan_trains_nothing(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", str(study), "--plan"]) == 0
    printed = capsys.readouterr().out
    assert "4 runs" in printed
    assert "not trained" in printed
    assert "MiB" in printed
    assert "to answer: base, seeds 0, 1; relu2, seeds 0, 1\n" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["which.yaml"]
    with pytest.raises(SystemExit) as stop:
        main(["compare", "tiny_decoder"])
    assert stop.value.code == 2
    assert "name a study file" in capsys.readouterr().err


def test_tasks_longer_lengths_documents_and_the_worth_in_steps(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    further = "lengths: [2]\nexchange_rate: true\ntasks:\n  plain: {}\n  longer: {figure: val/loss@2x}\n"
    study.write_text(STUDY.replace("smallest: 0.5\n", "") + further)
    out = tmp_path / "out"
    assert main(["compare", str(study), "--out", str(out), *QUIET]) == 0
    assert "| relu2 |" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert set(results["verdicts"]) == {f"{task}/{name}" for task in ("plain", "longer") for name in ("relu2", "same")}
    plain, longer = (results["tasks"][task] for task in ("plain", "longer"))
    assert plain["documents"]["relu2"]["documents"] > 1
    assert [share for share, _ in plain["exchange"]["base"]] == [0.8, 1.0, 1.25]
    assert longer["documents"] == {"relu2": None}
    for run in longer["runs"]:
        assert run["figure"] == run["figures"]["val/loss@2x"] != run["figures"]["val/loss"]
    assert "plain/report.html" in (out / "report.html").read_text()
    assert (out / "results.csv").read_text().count("\n") == 7
    assert not any(path.stat().st_size == 0 for path in (out / "plain").glob("results.*"))
