"""A run that is killed anywhere, and then repeated by one command, is bit for bit the run that nothing stopped."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockformer.cli.main import main
from tests.conftest import ROOT
from tests.faults.dying import install
from tests.training.test_resume import figures, same, state

Tally = Callable[[str, str], None]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
TIMES = 3  # a run is killed at most


@pytest.fixture(scope="module")
def command(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """The command that is safe to repeat, for a run of that name."""
    root = tmp_path_factory.mktemp("runs")

    def of(name: str, *more: str) -> list[str]:
        steps = ["--trainer.max_steps", "9", "--trainer.val_check_interval", "3", "--run.save_every", "2"]
        return ["fit", *arguments, *steps, "--run.root", str(root), "--run.name", name, "--ckpt_path", "last", *more]

    return of


def folder_of(command: list[str]) -> Path:
    return Path(command[command.index("--run.root") + 1]) / command[command.index("--run.name") + 1]


def killed(command: list[str], number: int, signum: int, rank: int = 0) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own, which gets a signal at a place of the run."""
    words = [sys.executable, "-m", "tests.faults.dying", str(number), str(int(signum)), str(rank), *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run(words, env=environment, cwd=ROOT, timeout=900, **pipes)


def check_same(ours: Path, theirs: Path) -> None:
    assert figures(ours) == figures(theirs)
    for name in ("last", "best"):
        assert same(state(ours, name), state(theirs, name)), name
    left = {path.name for path in ours.rglob("*") if path.name.startswith(".")}
    assert not left, f"left behind: {left}"


@pytest.fixture(scope="module")
def whole(command: Callable[..., list[str]]) -> tuple[Path, int]:
    """A run that nothing stopped, and how many places it passes."""
    passed = 0

    def count(number: int) -> None:
        nonlocal passed
        passed = number

    with pytest.MonkeyPatch.context() as patch:
        install(count, patch.setattr)
        assert main(command("whole")) == 0
    return folder_of(command("whole")), passed


@pytest.mark.slow
def test_a_run_killed_anywhere_is_finished_by_the_same_command(
    command: Callable[..., list[str]], whole: tuple[Path, int], faults: int, tally: Tally
) -> None:
    unbroken, places = whole
    draw = random.Random(faults)
    for index in range(max(1, min(faults // 25, 40))):
        words = command(f"killed-{index}")
        ends: list[str] = []
        for _ in range(draw.randint(1, TIMES) if faults > 20 else 1):
            number, signum = draw.randint(1, places), draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            process = killed(words, number, signum)
            ends.append(f"{signum.name} at {number}/{places}: {process.returncode}")
            assert process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM, 0), process.stdout
            assert "Traceback" not in process.stdout
            assert "this is a bug" not in process.stdout
            tally("killed run", f"ended by {signum.name}" if process.returncode else "done before the signal")
        assert main(words) == 0, ends
        try:
            check_same(folder_of(words), unbroken)
        except AssertionError as error:
            raise AssertionError(f"{', '.join(ends)}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "signum"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGTERM)])
def test_a_run_of_two_processes_is_finished_by_the_same_command(
    command: Callable[..., list[str]], start: Callable[..., Any], rank: int, signum: signal.Signals
) -> None:
    unbroken = command("whole-of-two", *TWO)
    if not folder_of(unbroken).exists():
        process = killed(unbroken, 0, signum)
        assert process.returncode == 0, process.stdout
    words = command(f"two-{rank}-{signum.name}", *TWO)
    process = killed(words, 60 if rank == 0 else 20, signum, rank)
    assert process.returncode, process.stdout
    assert "Traceback" not in process.stdout
    again = start(*words)
    output, _ = again.communicate(timeout=900)
    assert again.returncode == 0, output
    check_same(folder_of(words), folder_of(unbroken))


@pytest.mark.slow
def test_unnamed_runs_that_start_together_have_a_folder_each(
    arguments: list[str], tmp_path: Path, start: Callable[..., Any]
) -> None:
    words = ["fit", *arguments, "--trainer.max_steps", "1", "--run.root", str(tmp_path)]
    processes = [start(*words) for _ in range(2)]
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [len(figures(folder)) for folder in tmp_path.iterdir()] == [2, 2]
