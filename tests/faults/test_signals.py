"""Signals at random times of a command's life: one line, whole files, and the status of the signal."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blockformer.assembly.checkpoint import read_checkpoint
from blockformer.training.loggers.file_logger import read_rows
from tests.conftest import ROOT, last_of_each

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MOST = 40  # a command takes seconds to start
SLOWEST = 60.0  # seconds until a command has ended


@pytest.fixture(scope="module")
def victim(fit: Callable[..., Path]) -> Path:
    """The checkpoint of a run."""
    return fit("--trainer.max_steps", "2", name="victim") / "checkpoints" / "last.ckpt"


def commands(victim: Path, arguments: list[str], folder: Path) -> dict[str, list[str]]:
    """Every kind of command, with the files that it writes in a folder."""
    long = ["--trainer.max_steps", "100000", "--trainer.val_check_interval", "7", "--run.save_every", "5"]
    place = ["--run.root", str(folder / "runs"), "--run.name", "struck", "--trainer.enable_progress_bar", "true"]
    return {
        "fit": ["fit", *last_of_each([*arguments, *long, *place])],
        "validate": ["validate", "--ckpt_path", str(victim)],
        "predict": ["predict", "--ckpt_path", str(victim)],
        "generate": ["generate", str(victim), "--prompt", "the quick", "--max-new-tokens", "60"],
        "export": ["export", str(victim), "--to", "hf", "--custom", "--out", str(folder / "exported")],
        "show": ["show", "tiny_decoder", "--activations"],
        "schema": ["schema", "--out", str(folder / "schema.json")],
        "conformance": ["conformance", "--count", "3", "--out", str(folder / "matrix.json")],
    }


def struck(command: list[str], signum: int, delay: float) -> tuple[int, str]:
    """The exit status and errors of a command that gets a signal after a delay, if it still runs."""
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "blockformer.cli.main", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    try:
        _, errors = running.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        running.send_signal(signum)
        _, errors = running.communicate(timeout=SLOWEST)
    return running.returncode, errors


def problem_of(status: int, errors: str, signum: int, delay: float) -> str | None:
    """What is wrong with how a command ended; None: nothing."""
    # Until Python has come to our code, SIGINT is its own.
    before_us = status in (1, -signum) and delay < 0.5 and "cli/main.py" not in errors
    if status not in (0, 128 + signum) and not before_us:
        return f"status {status}"
    lines = [line for line in errors.splitlines() if not line.startswith("note: ") and " generated, " not in line]
    if status == 128 + signum and (len(lines) != 1 or f"stopped by {signal.Signals(signum).name}" not in lines[0]):
        return f"{len(lines)} lines"
    return None


def damage_in(folder: Path) -> str | None:
    """What a stopped command has left that is not whole; None: nothing."""
    for path in folder.rglob("*"):
        if path.suffix == ".tmp" or path.name.startswith(".exported"):
            return f"a draft, {path.name}"
        if path.suffix == ".ckpt":
            read_checkpoint(path)
        if path.name == "metrics.jsonl":
            read_rows(path)
    return None


@pytest.mark.slow
def test_a_signal_at_any_time_leaves_whole_files(
    faults: int, tally: Callable[[str, str], None], victim: Path, arguments: list[str], tmp_path: Path
) -> None:
    draw = random.Random(9)
    for number in range(min(MOST, max(3, faults // 25))):
        folder = tmp_path / str(number)
        folder.mkdir()
        choices = commands(victim, arguments, folder)
        verb = draw.choice(["fit"] * 5 + [name for name in choices if name != "fit"])
        signum, delay = draw.choice(SIGNALS), 0.05 * 400 ** draw.random()
        status, errors = struck(choices[verb], signum, delay)
        where = f"{verb}, {signal.Signals(signum).name} after {delay:.2f} s: {errors[-500:]}"
        assert problem_of(status, errors, signum, delay) is None, f"{status}, {where}"
        assert damage_in(folder) is None, where
        tally(f"signal to {verb}", "stopped" if status else "had ended")
