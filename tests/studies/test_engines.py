"""Runs that are executed by jobs of an engine."""

import json
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import blockformer as bf
from blockformer.cli.main import main
from blockformer.errors import UserError
from blockformer.studies import launcher, processes
from blockformer.studies.claims import CLAIMS
from blockformer.studies.engines import Ray, Slurm, make_engine
from blockformer.studies.execution import RunFailedError
from blockformer.studies.launcher import Launcher
from blockformer.studies.run import Run
from blockformer.training.run_lock import RunLock
from tests.studies.pretended_fit import PRETENDED, instead

RUNS = [Run(name, seed, None, "answer", {"trainer": {"max_steps": 3}}) for seed in (0, 1) for name in ("base", "b")]
STUDY = """\
base: tiny_decoder
overrides: {decoder.depth: 1}
variants: {relu2: {decoder.layer.feedforward: {type: mlp, activation: relu2}}}
seeds: 1
fit:
  data: {tokenizer: bytes, length: 32, max_bytes: 50000, batch_size: 8}
  trainer: {max_steps: 3, accelerator: cpu}
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "begin", instead(*PRETENDED))
    monkeypatch.setattr(launcher, "POLL", 0.05)
    monkeypatch.setattr(launcher, "WAIT", 0.1)


class Threads:
    """An engine whose jobs are threads; the first ones die."""

    def __init__(self, dead: int = 0) -> None:
        self.pool, self.dead, self.submitted = ThreadPoolExecutor(8), dead, list[int]()

    def submit(self, calls: Sequence[Callable[[], Any]]) -> Sequence["Future[Any]"]:
        self.submitted.append(len(calls))
        return [self.pool.submit(self._begin, call) for call in calls]

    def _begin(self, call: Callable[[], Any]) -> Any:
        if self.dead:
            self.dead -= 1
            raise OSError("the node is gone")
        return call()

    def close(self) -> None:
        self.pool.shutdown()


@pytest.mark.usefixtures("quick")
def test_each_run_is_executed_by_one_of_the_jobs(tmp_path: Path) -> None:
    engine = Threads()
    results = Launcher(engine, tmp_path, "study", "val/loss", workers=3).execute(RUNS)
    assert [result.id for result in results] == [run.id for run in RUNS]
    assert engine.submitted == [3]
    for run in RUNS:
        assert len((tmp_path / "runs" / run.id / "begun").read_text().splitlines()) == 1
    assert len(Launcher(engine, tmp_path, "study", "val/loss", workers=3).execute(RUNS)) == 4
    assert engine.submitted == [3]


@pytest.mark.usefixtures("quick")
def test_jobs_that_die_are_started_again_while_that_helps(tmp_path: Path) -> None:
    engine = Threads(dead=2)
    assert len(Launcher(engine, tmp_path, "study", "val/loss", workers=1).execute(RUNS)) == 4
    assert engine.submitted == [1, 1, 1]
    with pytest.raises(RunFailedError, match=r"1 runs have no result after 3 launches .* OSError: the node is gone"):
        Launcher(Threads(dead=99), tmp_path, "study", "val/loss").execute([Run("new", 0, None, "answer", {})])


@pytest.mark.usefixtures("quick")
def test_what_another_process_has_claimed_is_waited_for(tmp_path: Path) -> None:
    engine, lock = Threads(), RunLock(tmp_path / CLAIMS / RUNS[0].id)
    threading.Timer(1.0, lock.release).start()
    assert len(Launcher(engine, tmp_path, "study", "val/loss", workers=2).execute(RUNS)) == 4
    assert engine.submitted == [2, 1]


@pytest.mark.usefixtures("quick")
def test_wrong_settings_end_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (sys.executable, "-c", "print('no such file'); exit(2)")
    monkeypatch.setattr(processes, "begin", instead(*command))
    with pytest.raises(UserError, match="no such file"):
        Launcher(Threads(), tmp_path, "study", "val/loss", workers=2).execute(RUNS)


def test_options_of_engines_are_checked(tmp_path: Path) -> None:
    for options, reason in (
        ({}, "needs --engine-option time=MINUTES"),
        ({"time": "soon"}, "--engine-option time=soon: must be a number"),
        ({"time": "5", "cluster": "moon"}, "doesn't know any executor named moon"),
        ({"time": "5"}, 'Could not detect "srun"'),
    ):
        with pytest.raises(UserError, match=reason):
            Slurm(tmp_path, options)
    with pytest.raises(UserError, match="there is no option 'gpu'; known: address, cpus, gpus"):
        Ray({"gpu": "1"})


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package, name in (("submitit", "slurm"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf"--engine {name}: needs a package: pip install 'blockformer\[{name}\]'"):
            make_engine(name, tmp_path, {"time": "5"})
    for wrong in (["--engine", "ray"], ["--engine-option", "cpus=1"], ["--engine", "moon"]):
        with pytest.raises(SystemExit):
            main(["compare", "tiny_decoder", "tiny_wide", *wrong])
    assert "--engine needs --workers N" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_is_run_by_jobs_of_submitit(tmp_path: Path) -> None:
    path = tmp_path / "which.yaml"
    path.write_text(STUDY)
    arguments = ["compare", str(path), "--out", str(tmp_path / "out"), "--run.wandb", "disabled"]
    engine = ["--engine", "slurm", "--engine-option", "cluster=local", "--engine-option", "time=10", "--workers", "2"]
    assert main([*arguments, *engine]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [run["status"] for run in results["runs"]] == ["finished"] * 2
    assert len(list((tmp_path / "out" / "slurm").glob("*/*_result.pkl"))) >= 2  # one more if a worker ended early


@pytest.mark.slow
def test_a_study_with_learning_rates_is_run_by_a_ray_cluster(tmp_path: Path) -> None:
    path = tmp_path / "which.yaml"
    path.write_text(STUDY)
    results = bf.compare(
        path,
        out=tmp_path / "out",
        changes={"learning_rates": [1e-9, 1e-3, 1e6]},
        workers=2,
        options=["--run.wandb", "disabled"],
        engine="ray",
    )
    assert results["learning_rates"] == {"base": 1e-3, "relu2": 1e-3}
    assert len(results["tuning"]) == 6
    assert [run["status"] for run in results["runs"]] == ["finished"] * 2
