"""How runs are executed, with commands that are not really run."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from blockformer.studies.claims import CLAIMS
from blockformer.studies.execution import ATTEMPTS, Executor, RunFailedError
from blockformer.studies.run import Run
from blockformer.training.run_lock import RunLock

RUNS = [Run(name, seed, None, "answer", {}) for seed in (0, 1) for name in ("base", "other")]
Outcomes = Callable[[Run], int]


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Executor]:
    """An executor whose runs end with a given status; those that end with 0 leave metrics."""

    def make(outcome: Outcomes, **settings: int) -> Executor:
        made = Executor(tmp_path, "study", "val/loss", **settings)

        def run(run: Run, arguments: list[str], *where: object) -> tuple[int, str]:
            status = outcome(run)
            if status == 0:
                folder = tmp_path / "runs" / run.id
                folder.mkdir(parents=True, exist_ok=True)
                row = {"step": 3, "tokens": 9, "seconds": 1.5, "val/loss": 2.0 + run.seed}
                (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
            return status, "what went wrong"

        monkeypatch.setattr(made.commands, "execute", run)
        return made

    return make


@pytest.mark.parametrize("workers", [1, 3])
def test_each_run_is_executed_once(executor: Callable[..., Executor], workers: int) -> None:
    begun: list[str] = []

    def outcome(run: Run) -> int:
        begun.append(run.id)
        return 0

    results = executor(outcome, workers=workers).execute(RUNS)
    assert [result.figure for result in results] == [2.0, 2.0, 3.0, 3.0]
    assert sorted(begun) == sorted(run.id for run in RUNS)
    assert [result.id for result in executor(outcome).execute(RUNS)] == [run.id for run in RUNS]
    assert len(begun) == len(RUNS)


def test_a_run_that_fails_is_tried_again_and_is_no_result(executor: Callable[..., Executor], tmp_path: Path) -> None:
    begun: list[str] = []

    def outcome(run: Run) -> int:
        begun.append(run.variant)
        return 1 if run.variant == "other" else 0

    with pytest.raises(RunFailedError, match=f"failed {ATTEMPTS} times: what went wrong"):
        executor(outcome).execute(RUNS)
    assert begun.count("other") == 2 * ATTEMPTS
    assert sorted(path.name[:4] for path in (tmp_path / "results").iterdir()) == ["base", "base"]
    assert len(executor(lambda run: 0).execute(RUNS)) == 4


def test_a_run_that_another_worker_has_claimed_is_waited_for(
    executor: Callable[..., Executor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockformer.studies.execution.WAIT", 0.05)
    begun: list[str] = []

    def outcome(run: Run) -> int:
        begun.append(run.id)
        return 0

    lock = RunLock(tmp_path / CLAIMS / RUNS[0].id)
    done = threading.Thread(target=lambda: executor(outcome, workers=2).execute(RUNS))
    done.start()
    done.join(1.0)
    assert done.is_alive()
    assert RUNS[0].id not in begun
    lock.release()
    done.join(20)
    assert not done.is_alive()
    assert sorted(begun) == sorted(run.id for run in RUNS)
