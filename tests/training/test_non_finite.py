"""Runs and figures that are infinite or NaN."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from blockformer.assembly.checkpoint import model_weights, read_checkpoint, read_metadata
from blockformer.cli.main import main
from blockformer.errors import UserError
from blockformer.training.callbacks import Checkpoints, NonFiniteGuard, non_finite
from blockformer.training.callbacks.step_callback import is_reporting_step
from blockformer.training.kept_checkpoints import KeptCheckpoints
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.module import TrainingModule
from blockformer.training.optimizers import OptimizerSettings
from tests.conftest import last_of_each


def saved_steps(folder: Path, figures: list[float]) -> list[int]:
    """The steps at which `best.ckpt` is written when validations give these figures."""
    steps: list[int] = []
    state = SimpleNamespace(fn="fit")
    trainer: Any = SimpleNamespace(
        state=state, sanity_checking=False, fast_dev_run=False, global_step=0, is_global_zero=False
    )
    trainer.save_checkpoint = lambda path: steps.append(trainer.global_step)
    checkpoints = Checkpoints(folder, 0, "val/loss", KeptCheckpoints(folder, 1, 1, "val/loss", min), NonFiniteGuard())
    for step, figure in enumerate(figures, start=1):
        trainer.global_step, module = step, SimpleNamespace(evaluation={"val/loss": figure})
        checkpoints.on_validation_end(trainer, module)  # type: ignore[arg-type]
    return steps


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_finite_is_never_the_best(tmp_path: Path, broken: float) -> None:
    assert saved_steps(tmp_path, [broken, 2.0, broken, 3.0, 1.0]) == [2, 5]


@pytest.mark.parametrize("first", [1, 2])
def test_a_validation_loss_that_is_no_number_stops_the_run_and_keeps_the_best_checkpoint(
    first: int, arguments: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The broken figure is that of the first or the second validation."""
    report, calls = TrainingModule._report, []

    def broken(self: TrainingModule, stage: str) -> None:
        calls.append(stage)
        if len(calls) == first:
            assert self._evaluated is not None
            self._evaluated.sums.fill_(math.nan)
        report(self, stage)

    monkeypatch.setattr(TrainingModule, "_report", broken)
    options = ["--run.root", str(runs), "--run.name", f"nan-{first}", "--trainer.max_steps", "4"]
    assert main(["fit", *arguments, *options, "--trainer.val_check_interval", "2"]) == 1
    assert f"val/loss is nan after step {2 * first}" in capsys.readouterr().err
    best = runs / f"nan-{first}" / "checkpoints" / "best.ckpt"
    assert best.exists() == (first == 2)
    if best.exists():
        assert read_metadata(best)["step"] == 2


def test_a_run_whose_loss_is_no_number_stops_and_is_not_saved(
    arguments: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diverge = ["--optimizer.lr", "1e30", "--optimizer.warmup_steps", "0", "--trainer.max_steps", "30"]
    options = ["--run.root", str(runs), "--run.name", "nan", *diverge, "--run.save_every", "1"]
    assert main(["fit", *last_of_each([*arguments, *options])]) == 1
    assert "the loss or its gradient is not finite since step" in capsys.readouterr().err
    weights = model_weights(read_checkpoint(runs / "nan" / "checkpoints" / "last.ckpt"))
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert "is not finite since step" in json.loads((runs / "nan" / "diverged.json").read_text())["reason"]


CONTINUE = ["--ckpt_path", "last", "--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"]


@pytest.mark.parametrize("save_every", ["1", "100"])
@pytest.mark.parametrize("rate", ["1e38", "1e10"])
def test_a_good_checkpoint_stays_where_a_continuation_breaks_the_weights(
    rate: str, save_every: str, fit: Callable[..., Path], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit("--trainer.max_steps", "3", name=f"good-{rate}-{save_every}")
    before = read_checkpoint(run / "checkpoints" / "last.ckpt")
    where = ["--run.root", str(runs), "--run.name", run.name, "--run.save_every", save_every]
    capsys.readouterr()
    assert main(["fit", *CONTINUE, *where, "--optimizer.lr", rate, "--trainer.max_steps", "30"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not finite" in line or "is 0" in line or "is exactly 0" in line
    after = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert after["global_step"] == 3
    assert all(torch.equal(tensor, after["state_dict"][name]) for name, tensor in before["state_dict"].items())
    assert [file.name for file in (run / "checkpoints").glob(".*")] == []


@pytest.mark.parametrize("what", ["a weight", "a moment"])
def test_what_is_not_finite_is_not_saved(
    what: str, fit: Callable[..., Path], arguments: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(self: TrainingModule, *given: Any, **more: Any) -> None:
        step(self, *given, **more)
        if self.trainer.global_step == 2:  # during the third step
            parameter = self.model.get_parameter("decoder.norm.weight")
            held = parameter if what == "a weight" else self.trainer.optimizers[0].state[parameter]["exp_avg_sq"]
            held.data[0] = math.inf

    step = TrainingModule.optimizer_step
    name = f"spoilt-{what[2:]}"
    options = ["--run.root", str(runs), "--run.name", name, "--run.save_every", "1", "--trainer.max_steps", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "optimizer_step", spoil)
        assert main(["fit", *arguments, *options]) == 1
    assert "decoder.norm.weight is not finite after step 3" in capsys.readouterr().err
    assert read_metadata(runs / name / "checkpoints" / "last.ckpt")["step"] == 2


def test_a_run_without_gradient_stops(
    arguments: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TrainingModule, "_gradients", lambda self: [torch.zeros(1)])
    options = ["--run.root", str(runs), "--run.name", "dead", "--trainer.max_steps", "40"]
    assert main(["fit", *arguments, *options]) == 1
    assert "the gradient is exactly 0 since step 1, so nothing is learned" in capsys.readouterr().err
    assert not (runs / "dead" / "checkpoints" / "last.ckpt").exists()


WRONG = ("weight_decay 1e308", "weight_decay 1001", "weight_decay nan", "lr inf", "lr 1e39", "lr nan", "eps 0")


@pytest.mark.parametrize("setting", [*WRONG, "eps 1e-60", "eps 2", "beta1 nan", "beta2 0.99999999999999999999"])
def test_optimizer_settings_have_ranges(setting: str) -> None:
    name, value = setting.split()
    with pytest.raises(UserError, match=rf"optimizer: {name} must be|optimizer\.{name} must be"):
        OptimizerSettings(**{name: float(value)})


def spoiled_steps(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """The loss of these steps is NaN."""
    step = TrainingModule.training_step

    def spoilt(self: TrainingModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        return loss * math.nan if self.trainer.global_step + 1 in steps else loss

    monkeypatch.setattr(TrainingModule, "training_step", spoilt)


def test_a_step_that_is_not_finite_can_be_skipped_and_is_counted(
    arguments: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled_steps(monkeypatch, 3, 4, 6)
    weights: dict[int, torch.Tensor] = {}
    after = TrainingModule.on_train_batch_end

    def noted(self: TrainingModule, *given: Any) -> None:
        after(self, *given)
        weights[self.trainer.global_step] = self.model.table.detach().clone()

    monkeypatch.setattr(TrainingModule, "on_train_batch_end", noted)
    options = ["--run.root", str(runs), "--run.name", "skipping", "--trainer.max_steps", "8"]
    assert main(["fit", *arguments, *options, "--run.skip_non_finite", "2"]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "is skipped" in line]
    assert [line.split()[2] for line in notes] == ["3", "4", "6"]
    changed = [step for step in range(2, 9) if not torch.equal(weights[step], weights[step - 1])]
    assert changed == [2, 5, 7, 8]
    checkpoint = read_checkpoint(runs / "skipping" / "checkpoints" / "last.ckpt")
    assert checkpoint["callbacks"]["NonFiniteGuard"] == {"skipped": 3, "in_a_row": 0}
    assert all(tensor.isfinite().all() for tensor in model_weights(checkpoint).values())


def test_figures_of_layers_are_those_of_the_step_and_not_of_the_search_for_what_broke(
    arguments: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled_steps(monkeypatch, 2)
    options = ["--run.root", str(runs), "--run.name", "watched-skipping", "--trainer.max_steps", "3"]
    options += ["--run.skip_non_finite", "2", "--run.watch_every", "1"]
    assert main(["fit", *arguments, *options]) == 0
    rows = {
        row["step"]: row
        for row in read_rows(runs / "watched-skipping" / "metrics.jsonl")
        if any(key.startswith("weight_norm/") for key in row)
    }
    assert any(key.startswith("gradient_norm/") for key in rows[1])
    assert not any(key.startswith("gradient_norm/") for key in rows[2])  # those of the step were no numbers
    assert any(key.startswith("gradient_norm/") for key in rows[3])


def test_too_many_skipped_steps_in_a_row_end_the_run(
    arguments: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled_steps(monkeypatch, 3, 4, 5)
    options = ["--run.root", str(runs), "--run.name", "skipping-too-many", "--trainer.max_steps", "8"]
    assert main(["fit", *arguments, *options, "--run.skip_non_finite", "2"]) == 1
    assert "is not finite in 3 steps in a row, since step 3 (--run.skip_non_finite 2)" in capsys.readouterr().err


UNVALIDATED = ["--trainer.limit_val_batches", "0"]


def overflowing(monkeypatch: pytest.MonkeyPatch, name: str, value: float, step: int) -> None:
    """Before a step, the weights of this name get a value with which their layer or the loss overflows."""
    start = TrainingModule.on_train_batch_start

    def spoilt(self: TrainingModule, batch: Any, batch_idx: int) -> None:
        start(self, batch, batch_idx)
        parameter = self.model.get_parameter(name)
        if self.trainer.global_step + 1 == step:
            parameter.data.fill_(value)

    monkeypatch.setattr(TrainingModule, "on_train_batch_start", spoilt)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("decoder.layers.1.feedforward.down.weight", math.inf, "first in the output of decoder.layers.1"),
        ("decoder.norm.weight", 5e37, "the outputs of all layers are finite, the loss is not"),
    ],
)
@pytest.mark.parametrize("skips", [0, 2])
def test_the_layer_and_the_step_that_broke_are_named(
    skips: int,
    name: str,
    value: float,
    found: str,
    arguments: list[str],
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    overflowing(monkeypatch, name, value, 3)
    where = ["--run.root", str(runs), "--run.name", f"overflow-{skips}-{value}", "--trainer.max_steps", "8"]
    options = [*where, "--run.skip_non_finite", str(skips), "--recipe.decoder.depth", "3", *UNVALIDATED]
    assert main(["fit", *last_of_each([*arguments, *options])]) == 1
    lines = capsys.readouterr().err.splitlines()
    if skips:
        notes = [line for line in lines if "is skipped" in line]
        assert [line.split()[2] for line in notes] == ["3", "4"]
        assert all(found in line for line in notes)
        assert f"in 3 steps in a row, since step 3 (--run.skip_non_finite 2), {found}" in lines[-1]
    else:
        (line,) = lines
        assert f"is not finite since step 3, {found}" in line
    assert not (runs / where[3] / "checkpoints" / "last.ckpt").exists()


def test_a_break_that_is_seen_late_names_its_step_and_how_to_find_the_layer(
    arguments: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a GPU, whose values are read at reporting steps."""
    monkeypatch.setattr(non_finite, "is_sync_step", is_reporting_step)
    overflowing(monkeypatch, "decoder.layers.0.feedforward.down.weight", math.inf, 2)
    options = ["--run.root", str(runs), "--run.name", "late", "--trainer.max_steps", "8"]
    options += [*UNVALIDATED, "--trainer.log_every_n_steps", "4"]
    assert main(["fit", *last_of_each([*arguments, *options])]) == 1
    found = "not finite since step 2, seen at step 4; to have the layer named, continue from the checkpoint before it"
    assert found in capsys.readouterr().err


def test_the_layer_that_breaks_a_gradient_is_named(
    arguments: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    after = TrainingModule.on_before_optimizer_step

    def spoilt(self: TrainingModule, optimizer: Any) -> None:
        after(self, optimizer)
        for name in ("embedding.tokens.weight", "decoder.layers.0.mixer.q.weight"):
            self.model.get_parameter(name).grad[0] = math.inf  # type: ignore[index]

    monkeypatch.setattr(TrainingModule, "on_before_optimizer_step", spoilt)
    options = ["--run.root", str(runs), "--run.name", "named", "--trainer.max_steps", "3"]
    assert main(["fit", *arguments, *options, "--trainer.gradient_clip_val", "0"]) == 1
    line = capsys.readouterr().err
    assert "since step 1, in 2 of " in line
    assert "the backward pass breaks in decoder.layers.0 (decoder.layers.0.mixer.q.weight)" in line
