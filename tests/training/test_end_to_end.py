"""The real command in a process of its own."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blockformer.assembly.checkpoint import model_weights, read_checkpoint, read_metadata
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.loggers.sent_rows import CLOCKS
from tests.training.waiting import wait_for
from tests.training.wandb_log import read_run

Fit = Callable[..., Path]
STEPS = ["--trainer.max_steps", "150", "--trainer.val_check_interval", "25", "--run.save_every", "10"]
CONTINUED = ["--ckpt_path", "last", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


def figures(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in CLOCKS} for row in read_rows(folder / "metrics.jsonl")
    ]


def stopped(
    start: Callable[..., Any], arguments: list[str], runs: Path, name: str, signum: int, cache: str
) -> tuple[int, str]:
    """Start a run, send it a signal in the middle of an epoch, and give its exit status and what it printed."""
    options = [*arguments, *STEPS, "--run.wandb", "auto", "--run.root", str(runs), "--run.name", name]
    process = start("fit", *options, BLOCKFORMER_CACHE=cache)
    wait_for(lambda: len(read_rows(runs / name / "metrics.jsonl")) > 30, process)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


@pytest.fixture(scope="module")
def unbroken(fit: Fit) -> Path:
    return fit(*STEPS, name="unbroken")


def check_that_it_continues(fit: Fit, unbroken: Path, name: str) -> None:
    continued = fit(*CONTINUED, "--run.wandb", "disabled", name=name, given=[])
    assert figures(continued) == figures(unbroken)
    ours, theirs = (
        model_weights(read_checkpoint(folder / "checkpoints" / "last.ckpt")) for folder in (continued, unbroken)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_sigterm_saves_and_the_run_continues_exactly(
    start: Callable[..., Any], arguments: list[str], runs: Path, fit: Fit, unbroken: Path, tmp_path: Path
) -> None:
    status, output = stopped(start, arguments, runs, "terminated", signal.SIGTERM, str(tmp_path))
    assert status == 143, output
    assert "stopped by SIGTERM after step" in output
    assert "Traceback" not in output
    assert (
        read_metadata(runs / "terminated" / "checkpoints" / "last.ckpt")["step"]
        == figures(runs / "terminated")[-1]["step"]
    )
    assert read_run(runs / "terminated" / "wandb").exit_code == 1
    check_that_it_continues(fit, unbroken, "terminated")


@pytest.mark.slow
def test_a_killed_run_loses_no_figures_and_continues_exactly(
    start: Callable[..., Any], arguments: list[str], runs: Path, fit: Fit, unbroken: Path, tmp_path: Path
) -> None:
    status, _ = stopped(start, arguments, runs, "killed", signal.SIGKILL, str(tmp_path))
    assert status == -signal.SIGKILL
    there = figures(runs / "killed")
    assert there == figures(unbroken)[: len(there)]
    assert len(read_run(runs / "killed" / "wandb").history) > 5  # W&B's own file may lack the last second
    check_that_it_continues(fit, unbroken, "killed")
