"""Runs whose processes torchrun or SLURM starts."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blockformer.assembly.checkpoint import read_checkpoint
from blockformer.errors import UserError
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.parallel.launcher import take_processes_of_starter
from tests.conftest import last_of_each
from tests.training.waiting import wait_for

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
SLURM = {"SLURM_NTASKS": "6", "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "2", "SLURM_JOB_NAME": "train"}
UNSAID = {"devices": "auto", "num_nodes": 1}
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM", "TORCHELASTIC")) or name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN, {"devices": 4, "num_nodes": 2}),
        (SLURM, {"devices": 3, "num_nodes": 2}),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, UNSAID),
        ({"SLURM_NTASKS": "6", "SLURM_JOB_NAME": "train"}, UNSAID),  # in the script of sbatch, without srun
        ({}, UNSAID),
    ],
)
def test_a_run_has_the_processes_that_were_started(
    environment: dict[str, str], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = dict(UNSAID)
    take_processes_of_starter(settings)
    assert settings == expected


@pytest.mark.parametrize("same", [{"devices": 4}, {"devices": "4"}, {"devices": [0, 1, 2, 3]}, {"num_nodes": 2}])
def test_the_same_number_may_be_given_too(same: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    take_processes_of_starter(UNSAID | same)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"devices": 1}, "--trainer.devices 1: torchrun has started 4 processes on each node: leave it out"),
        ({"devices": "2"}, "--trainer.devices 2: torchrun has started 4"),
        ({"num_nodes": 3}, "--trainer.num_nodes 3: torchrun has started processes on 2 nodes"),
    ],
)
def test_another_number_is_refused(other: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        take_processes_of_starter(UNSAID | other)


@pytest.mark.parametrize("environment", [SLURM | {"SLURM_STEP_NUM_TASKS": "7"}, TORCHRUN | {"WORLD_SIZE": "7"}])
def test_nodes_with_unequally_many_are_refused(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="has started 7 processes, not equally many on each node"):
        take_processes_of_starter(dict(UNSAID))


@pytest.fixture
def torchrun() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start `blockformer` as two processes by torchrun, which starts them again once if one of them dies."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> "subprocess.Popen[str]":
        starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
        command = [sys.executable, *starter, "-m", "blockformer.cli.main", "fit", *last_of_each(arguments)]
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()  # torchrun ends its processes
        process.communicate(timeout=60)


def workers(process: "subprocess.Popen[str]") -> list[int]:
    return [int(one) for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_run_of_torchrun_goes_on_when_a_process_has_died(
    torchrun: Callable[..., "subprocess.Popen[str]"], arguments: list[str], runs: Path
) -> None:
    steps = 40
    process = torchrun(
        *(*arguments, "--run.root", str(runs), "--run.name", "elastic", "--ckpt_path", "last"),
        *("--trainer.max_steps", str(steps), "--run.save_every", "2"),
    )
    wait_for(lambda: (runs / "elastic" / "checkpoints" / "last.ckpt").exists(), process)
    os.kill(workers(process)[-1], signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert output.count("starting ...\n") == 2, output
    rows = [row["step"] for row in read_rows(runs / "elastic" / "metrics.jsonl") if "train/loss" in row]
    assert rows == list(range(1, steps + 1))
    assert len(read_checkpoint(runs / "elastic" / "checkpoints" / "last.ckpt")["random_states"]) == 2
