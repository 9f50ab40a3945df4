"""A run that is killed anywhere, and then repeated by one command, is bit for bit the run that nothing stopped."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from blockformer.cli.main import main
from tests.conftest import last_of_each
from tests.faults.dying import install
from tests.together import Together
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


def killed(command: list[str], number: int, signum: int, rank: int = 0) -> tuple[int | None, str]:
    """The exit status and output of the command in a process of its own, which gets a signal at a place of the run."""
    words = [str(number), str(int(signum)), str(rank), *command]
    process = Together(words, {}, program="tests.faults.dying", processes=1)
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


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
            status, output = killed(words, number, signum)
            ends.append(f"{signum.name} at {number}/{places}: {status}")
            assert status in (-signal.SIGKILL, 128 + signal.SIGTERM, 0), output
            assert "Traceback" not in output
            assert "this is a bug" not in output
            tally("killed run", f"ended by {signum.name}" if status else "done before the signal")
        assert main(words) == 0, ends
        try:
            check_same(folder_of(words), unbroken)
        except AssertionError as error:
            raise AssertionError(f"{', '.join(ends)}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "signum"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGTERM)])
def test_a_run_of_two_processes_is_finished_by_the_same_command(
    command: Callable[..., list[str]], together: Callable[..., Together], rank: int, signum: signal.Signals
) -> None:
    """Our launcher starts the run that is killed; the others are started as torchrun does."""
    unbroken = command("whole-of-two", *TWO)
    if not folder_of(unbroken).exists():
        process = together(*unbroken)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
    words = command(f"two-{rank}-{signum.name}", *TWO)
    status, output = killed(words, 60 if rank == 0 else 20, signum, rank)
    assert status, output
    assert "Traceback" not in output
    again = together(*words)
    output, _ = again.communicate(timeout=900)
    assert again.returncode == 0, output
    check_same(folder_of(words), folder_of(unbroken))


@pytest.mark.slow
def test_unnamed_runs_that_start_together_have_a_folder_each(arguments: list[str], tmp_path: Path) -> None:
    words = ["fit", *arguments, "--trainer.max_steps", "1", "--run.root", str(tmp_path)]
    processes = [Together(last_of_each(words), {}, processes=1) for _ in range(2)]
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [len(figures(folder)) for folder in tmp_path.iterdir()] == [2, 2]
