"""Workers that share a study: one is killed, stopped, or on another machine; each run still has one result."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from blockformer import signals
from blockformer.studies import claims, execution, processes
from blockformer.studies.claims import CLAIMS
from blockformer.studies.execution import Executor, InterruptedStudy
from blockformer.studies.run import Run
from blockformer.training import run_lock
from blockformer.training.run_lock import LOCK, RunLock
from tests.studies.pretended_fit import PRETENDED, instead

Start = Callable[[Run], BaseProcess]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "begin", instead(*PRETENDED))
    monkeypatch.setattr(execution, "WAIT", 0.1)


def run_of(steps: int, **settings: object) -> Run:
    return Run("base", 0, None, "answer", {"trainer": {"max_steps": steps}, **settings})


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Start]:
    """Starts another process that executes a run."""
    started: list[BaseProcess] = []

    def start(run: Run) -> BaseProcess:
        executor = Executor(tmp_path, "study", "val/loss")
        process = multiprocessing.get_context("fork").Process(target=executor.execute, args=([run],))
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def steps_of(folder: Path, run: Run) -> list[int]:
    return [int(line) for line in (folder / "runs" / run.id / "steps").read_text().split()]


@pytest.mark.slow
def test_the_run_of_a_killed_worker_is_waited_for_and_stored_once(tmp_path: Path, worker: Start) -> None:
    run = run_of(60)
    process = worker(run)
    wait_for(tmp_path / "runs" / run.id / "steps")
    process.kill()
    process.join()
    assert not (tmp_path / "results").exists()
    (result,) = Executor(tmp_path, "study", "val/loss").execute([run])
    assert result.figure == 1.0
    assert steps_of(tmp_path, run) == list(range(1, 61))  # made by the orphan; nothing is repeated


@pytest.mark.slow
def test_a_worker_that_is_killed_before_its_run_has_begun_is_replaced(tmp_path: Path, worker: Start) -> None:
    run = run_of(3, start=2)
    process = worker(run)
    wait_for(tmp_path / "logs" / f"{run.id}.txt")
    process.kill()
    process.join()
    Executor(tmp_path, "study", "val/loss").execute([run])
    assert steps_of(tmp_path, run) == [1, 2, 3]


@pytest.mark.slow
def test_the_run_of_a_stopped_worker_is_taken_over(
    tmp_path: Path, worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "ABANDONED", 1.0)
    run = run_of(10)
    process = worker(run)
    wait_for(tmp_path / "runs" / run.id / "steps")
    os.kill(process.pid or 0, signal.SIGSTOP)
    (result,) = Executor(tmp_path, "study", "val/loss").execute([run])
    stored = tmp_path / "results" / f"{run.id}.json"
    before = stored.stat().st_mtime_ns
    assert result.figure == 1.0
    assert steps_of(tmp_path, run) == list(range(1, 11))
    os.kill(process.pid or 0, signal.SIGCONT)
    process.join(60)
    assert process.exitcode == 0
    assert stored.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("alive", [True, False])
def test_a_claim_of_another_machine_is_judged_by_its_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_lock, "BEAT", 0.05)
    monkeypatch.setattr(run_lock, "PATIENCE", 0.4)
    run = run_of(2)
    claim = tmp_path / CLAIMS / run.id
    claim.mkdir(parents=True)
    (claim / LOCK).write_text(json.dumps({"process": 1, "host": "elsewhere", "since": "now", "machine": "elsewhere"}))
    end = threading.Event()

    def beat() -> None:
        while not end.wait(0.05):
            os.utime(claim / LOCK)

    if alive:
        threading.Thread(target=beat).start()
    executor = Executor(tmp_path, "study", "val/loss")
    done = threading.Thread(target=executor.execute, args=([run],))
    done.start()
    done.join(1.5 if alive else 30)
    assert done.is_alive() is alive
    end.set()
    done.join(30)
    assert steps_of(tmp_path, run) == [1, 2]
    assert capsys.readouterr().err == ""


def test_a_lock_that_was_replaced_is_left_alone_by_its_former_owner(tmp_path: Path) -> None:
    former = RunLock(tmp_path / "claim")
    (tmp_path / "claim" / LOCK).unlink()
    new = RunLock(tmp_path / "claim")
    former.release()
    assert json.loads((tmp_path / "claim" / LOCK).read_text())["process"] == os.getpid()
    new.release()


@pytest.mark.slow
def test_a_signal_lets_runs_save_and_a_second_call_continues_them(tmp_path: Path) -> None:
    run = run_of(30)

    def interrupt() -> None:
        wait_for(tmp_path / "runs" / run.id / "steps")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(InterruptedStudy, match="stopped by SIGINT; run the same command to continue") as stop:
        Executor(tmp_path, "study", "val/loss").execute([run])
    assert stop.value.exit_code == 130
    made = steps_of(tmp_path, run)
    assert 0 < len(made) < 30
    assert not (tmp_path / "results").exists()
    Executor(tmp_path, "study", "val/loss").execute([run])
    assert steps_of(tmp_path, run) == list(range(1, 31))


@pytest.mark.slow
def test_a_second_signal_ends_the_study_and_its_runs_at_once(tmp_path: Path) -> None:
    run = run_of(10_000, deaf=True)

    def execute() -> None:
        with signals.stopping("blockformer compare"):
            Executor(tmp_path, "study", "val/loss").execute([run])

    process = multiprocessing.get_context("fork").Process(target=execute)
    process.start()
    wait_for(tmp_path / "runs" / run.id / "steps")
    for _ in range(2):
        os.kill(process.pid or 0, signal.SIGINT)
        time.sleep(0.5)
    process.join(20)
    assert process.exitcode == 130
    made = len(steps_of(tmp_path, run))
    time.sleep(0.3)
    assert len(steps_of(tmp_path, run)) == made < 10_000
    assert not claims.is_locked(tmp_path / "runs" / run.id)


@pytest.mark.slow
def test_each_worker_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    runs = [Run(f"variant{index}", 0, None, "answer", {"trainer": {"max_steps": 12}}) for index in range(4)]
    Executor(tmp_path, "study", "val/loss", workers=2, gpus=["0,1", "2,3"]).execute(runs)
    seen = [(tmp_path / "runs" / run.id / "begun").read_text().split()[1] for run in runs]
    assert sorted(seen) == ["0,1", "0,1", "2,3", "2,3"]
