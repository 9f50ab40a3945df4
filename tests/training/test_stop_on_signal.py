"""Where a signal stops a run, what it saves, and how the run goes on."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import blockformer as bf
from blockformer import signals
from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from blockformer.training.callbacks import InterruptedRun
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.module import TrainingModule
from tests.conftest import last_of_each

STEPS = ["--trainer.max_steps", "6", "--trainer.val_check_interval", "3", "--run.save_every", "2"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--run.wandb", "disabled"]


def signal_at(monkeypatch: pytest.MonkeyPatch, method: str, signum: int, step: int) -> list[int]:
    """Send this process a signal whenever a method of the module is called at a step; the calls so far."""
    calls: list[int] = []
    original = getattr(TrainingModule, method)

    def struck(self: TrainingModule, *given: Any) -> Any:
        if self.trainer.global_step == step:
            calls.append(step)
            if len(calls) == 1:
                signal.raise_signal(signum)
        return original(self, *given)

    monkeypatch.setattr(TrainingModule, method, struck)
    return calls


def validations(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["val/loss"]) for row in read_rows(folder / "metrics.jsonl") if "val/loss" in row]


@pytest.fixture(scope="module")
def whole(fit: Callable[..., Path]) -> Path:
    """A run that nothing stopped."""
    return fit(*STEPS, name="unstopped")


@pytest.mark.parametrize(
    ("method", "step", "saved", "name"),
    [
        ("training_step", 3, 4, "SIGHUP"),
        ("validation_step", 3, 3, "SIGTERM"),
        ("validation_step", 6, 6, "SIGINT"),  # of the last step
    ],
)
def test_a_stopped_run_is_saved_and_goes_on_as_if_it_was_not(
    method: str,
    step: int,
    saved: int,
    name: str,
    whole: Path,
    fit: Callable[..., Path],
    arguments: list[str],
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    signum, run = getattr(signal, name), f"stopped-{name}"
    with monkeypatch.context() as patch:
        calls = signal_at(patch, method, signum, step)
        words = last_of_each([*arguments, *STEPS, "--run.root", str(runs), "--run.name", run])
        assert main(["fit", *words]) == 128 + signum
    line = f"stopped by {name} after step {saved}; continue with --ckpt_path last\n"
    assert capsys.readouterr().err == line
    assert len(calls) == 1  # the first batch of two of a validation
    folder = runs / run
    assert read_metadata(folder / "checkpoints" / "last.ckpt")["step"] == saved
    assert len(validations(folder)) == len(validations(whole)) - (step == 3) - (method == "validation_step")
    assert (folder / "log.txt").read_text().endswith(line)
    fit("--ckpt_path", "last", *QUIET, name=run, given=[])
    assert validations(folder) == validations(whole)


def test_before_the_first_step_a_run_stops_at_once(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signal_at(monkeypatch, "configure_optimizers", signal.SIGTERM, 0)
    assert (
        main(["fit", *arguments, "--run.root", str(tmp_path), "--run.name", "early", "--trainer.max_steps", "2"]) == 143
    )
    assert capsys.readouterr().err == "blockformer fit: stopped by SIGTERM\n"
    assert not (tmp_path / "early" / "checkpoints").exists()


def test_a_run_that_saves_nothing_promises_nothing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signal_at(monkeypatch, "training_step", signal.SIGTERM, 1)
    place = ["--run.root", str(tmp_path), "--trainer.enable_checkpointing", "false"]
    assert main(["fit", *arguments, *place, "--trainer.max_steps", "3"]) == 143
    assert capsys.readouterr().err == "stopped by SIGTERM after step 2; this run saves no checkpoints\n"


def test_validate_stops_within_a_batch_and_writes_nothing(
    fit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fit("--trainer.max_steps", "1", name="to-validate")
    before = sorted(path.name for path in folder.rglob("*"))
    calls = signal_at(monkeypatch, "validation_step", signal.SIGTERM, 0)
    capsys.readouterr()
    assert main(["validate", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]) == 143
    assert capsys.readouterr().err == "blockformer validate: stopped by SIGTERM\n"
    assert len(calls) == 1
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_in_python_a_signal_stops_a_run_too(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(signum) for signum in signals.SIGNALS]
    signal_at(monkeypatch, "training_step", signal.SIGTERM, 1)
    data = {"data.dataset": "text", "data.files": [str(text)], "data.tokenizer": "bytes", "data.length": 32}
    run = {"run.root": str(tmp_path), "run.name": "called", "run.wandb": "disabled", "trainer.accelerator": "cpu"}
    with pytest.raises(InterruptedRun, match="after step 2"):
        bf.train("tiny_decoder", {}, {**data, **run, "trainer.max_steps": 4})
    assert [signal.getsignal(signum) for signum in signals.SIGNALS] == before
