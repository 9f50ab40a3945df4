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
TASK = [
    *("--recipe", "tiny_decoder", "--recipe.decoder.depth", "1", "--recipe.vocab_size", "10"),
    *("--recipe.embedding.dropout", "0.1", "--data.dataset", "selective_copy", "--data.items", "6"),
    *("--data.symbols", "8", "--data.length", "24", "--data.batch_size", "8", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--run.wandb", "disabled", "--trainer.log_every_n_steps", "1"),
    *("--trainer.limit_val_batches", "2", "--optimizer.warmup_steps", "2"),
]
TIMES = 3  # a run is killed at most


@pytest.fixture(scope="module")
def command(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """The command that is safe to repeat, for a run of that name."""
    root = tmp_path_factory.mktemp("runs")

    def of(name: str, *more: str, given: list[str] = arguments) -> list[str]:
        steps = ["--trainer.max_steps", "9", "--trainer.val_check_interval", "3", "--run.save_every", "2"]
        words = [*given, *steps, "--run.root", str(root), "--run.name", name, "--ckpt_path", "last", *more]
        return last_of_each(["fit", *words])

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


def count_places(command: list[str]) -> int:
    """How many places the command passes when nothing stops it."""
    passed = 0

    def count(number: int) -> None:
        nonlocal passed
        passed = number

    with pytest.MonkeyPatch.context() as patch:
        install(count, patch.setattr)
        assert main(command) == 0
    return passed


@pytest.mark.slow
@pytest.mark.parametrize("data", ["text", "task"])
def test_a_run_killed_anywhere_is_finished_by_the_same_command(
    data: str, command: Callable[..., list[str]], arguments: list[str], faults: int, tally: Tally
) -> None:
    given = arguments if data == "text" else TASK
    unbroken = command(f"whole-{data}", given=given)
    places, draw = count_places(unbroken), random.Random(f"{faults} {data}")
    for index in range(max(1, min(faults // 25, 40))):
        words = command(f"killed-{data}-{index}", given=given)
        ends: list[str] = []
        for _ in range(draw.randint(1, TIMES) if faults > 20 else 1):
            number, signum = draw.randint(1, places), draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            status, output = killed(words, number, signum)
            ends.append(f"{signum.name} at {number}/{places}: {status}")
            assert status in (-signal.SIGKILL, 128 + signal.SIGTERM, 0), output
            assert "Traceback" not in output
            assert "this is a bug" not in output
            tally(f"killed run of {data}", f"ended by {signum.name}" if status else "done before the signal")
        assert main(words) == 0, ends
        try:
            check_same(folder_of(words), folder_of(unbroken))
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
