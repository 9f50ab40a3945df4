"""No validation is lost to a stop, none is made twice, and each run ends with one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import blockformer as bf
from blockformer.assembly.checkpoint import read_metadata
from blockformer.errors import UserError
from blockformer.phases import phases
from blockformer.training.callbacks import Checkpoints, MetricsLogger
from blockformer.training.fit_arguments import RunSettings
from blockformer.training.module import TrainingModule
from blockformer.training.objectives import ObjectiveSettings
from blockformer.training.score import BETTER
from registry import entries
from tests.training.test_resume import QUIET, figures, same, state

Fit = Callable[..., Path]
STEPS = ["--trainer.max_steps", "8", "--trainer.val_check_interval", "4", "--run.save_every", "4"]
PLACES: dict[str, tuple[type, str]] = {
    "in the middle of it": (TrainingModule, "validation_step"),
    "before its row": (MetricsLogger, "on_validation_end"),
    "after its row": (Checkpoints, "on_validation_end"),
}


def crash_in(owner: type, name: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies at the beginning of this method, in the validation after this step."""
    method: Callable[..., Any] = getattr(owner, name)

    def dying(self: Any, *arguments: Any) -> Any:
        trainer = self.trainer if isinstance(self, TrainingModule) else arguments[0]
        if trainer.global_step == step:
            raise MemoryError("crashed")
        return method(self, *arguments)

    monkeypatch.setattr(owner, name, dying)


@pytest.fixture(scope="module")
def whole(fit: Fit) -> Path:
    """A run that nothing stopped."""
    return fit(*STEPS, name="validated")


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 8])
@pytest.mark.parametrize("place", PLACES)
def test_a_stop_in_a_validation_loses_neither_its_row_nor_the_best_checkpoint(
    fit: Fit, whole: Path, monkeypatch: pytest.MonkeyPatch, place: str, step: int
) -> None:
    name = f"stopped-{place.replace(' ', '-')}-{step}"
    with monkeypatch.context() as patch:
        crash_in(*PLACES[place], step, patch)
        with pytest.raises(MemoryError):
            fit(*STEPS, name=name)
        with pytest.raises(MemoryError):  # and once more, in the run that continues
            fit("--ckpt_path", "last", *QUIET, name=name, given=[])
    folder = fit("--ckpt_path", "last", *QUIET, name=name, given=[])
    assert figures(folder) == figures(whole)
    assert same(state(folder), state(whole))
    assert same(state(folder, "best"), state(whole, "best"))


@pytest.mark.parametrize("step", [4, 8])
def test_a_validation_that_was_interrupted_is_not_shown_as_a_step(
    fit: Fit, step: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, shown = f"shown-{step}", ["--trainer.enable_progress_bar", "true"]
    with monkeypatch.context() as patch:
        crash_in(*PLACES["in the middle of it"], step, patch)
        with pytest.raises(MemoryError):
            fit(*STEPS, name=name)
    capsys.readouterr()
    began: list[bool] = []
    during = TrainingModule.validation_step

    def watched(self: TrainingModule, *arguments: Any) -> Any:
        began.append(phases.shown)
        return during(self, *arguments)

    monkeypatch.setattr(TrainingModule, "validation_step", watched)
    fit("--ckpt_path", "last", *shown, name=name, given=[])
    assert began
    assert not any(began)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    validated = next(n for n, line in enumerate(lines) if line.startswith(f"step {step}  validation: "))
    assert [line for line in lines[validated:] if line.endswith(" ...")] == (["step 5 ..."] if step == 4 else [])
    assert not any(line.startswith("step 9") for line in lines)


def test_a_run_of_epochs_ends_with_a_validation(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fit("--trainer.max_epochs", "1", "--trainer.val_check_interval", "5000", name="unvalidated")
    last, validation = figures(folder)[-2:]
    assert "train/loss" in last
    assert "val/loss" in validation
    assert (validation["step"], validation["epoch"]) == (last["step"], last["epoch"])
    shown = re.search(r"done: .*; validation: loss (\S+)", capsys.readouterr().out)
    assert shown is not None
    assert shown[1] == f"{validation['val/loss']:.4f}"
    assert (folder / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.slow
def test_without_validation_an_older_figure_is_shown_with_its_step(
    fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    constant = ["--optimizer.schedule", "constant"]
    fit("--trainer.max_steps", "2", *constant, name="older")
    more = ["--trainer.max_steps", "3", "--trainer.limit_val_batches", "0"]
    fit("--ckpt_path", "last", *more, *QUIET, name="older", given=[])
    assert "; validation of step 2: loss" in capsys.readouterr().out


def test_a_run_without_held_out_text_warns_of_nothing(fit: Fit, recwarn: pytest.WarningsRecorder) -> None:
    fit("--data.validation", "0", "--data.test", "0", "--trainer.max_steps", "1", name="nothing-held-out")
    assert not [str(one.message) for one in recwarn if "ranks" in str(one.message)]


def test_a_finished_run_says_that_there_is_nothing_to_do(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_steps", "2", name="finished")
    folder = fit("--ckpt_path", "last", *QUIET, name="finished", given=[])
    assert f"nothing to do: {folder} has made its 2 steps; validation: loss" in capsys.readouterr().out
    assert [row["step"] for row in figures(folder)] == [1, 1, 2, 2]


def test_every_figure_has_a_direction() -> None:
    known, model = set[str](), bf.build("tiny_encoder", {"head": {"type": "pooled", "outputs": 2}})
    for name, entry in entries("objective").items():
        objective = ObjectiveSettings(name).objective
        own = objective.own_figures(model)
        known |= objective.figures(torch.ones(6 + 2 * len(own)), model).keys() - {*own}
        known |= objective.metrics(model).keys() if entry.block.pooled else set()
    assert known == BETTER.keys()


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["val/accuracy", "val/loss"])
def test_the_best_checkpoint_has_the_best_figure(fit: Fit, monitor: str) -> None:
    steps = ["--trainer.max_steps", "6", "--trainer.val_check_interval", "1", "--optimizer.lr", "0.1"]
    folder = fit(*steps, "--run.monitor", monitor, name=f"best-{monitor[4:]}")
    rows = {row["step"]: row[monitor] for row in figures(folder) if monitor in row}
    assert len(set(rows.values())) > 2
    best = read_metadata(folder / "checkpoints" / "best.ckpt")["step"]
    assert rows[best] == BETTER[monitor[4:]](rows.values())
    # another figure starts afresh
    other = {"val/accuracy": "val/loss", "val/loss": "val/accuracy"}[monitor]
    more = ["--trainer.max_steps", "7", "--optimizer.schedule", "constant", "--run.monitor", other]
    fit("--ckpt_path", "last", *more, *QUIET, name=f"best-{monitor[4:]}", given=[])
    assert read_metadata(folder / "checkpoints" / "best.ckpt")["step"] == 7


def test_a_figure_that_no_validation_has_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"run.monitor val/f2 is not one of the figures val/accuracy, val/bits_per_byte, val/f1, val/loss",
    ):
        RunSettings(monitor="val/f2")
