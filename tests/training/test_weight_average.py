"""The running mean of the weights: what it is, where it is, and that a run goes on with both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blockformer.assembly.checkpoint import model_weights, read_checkpoint
from blockformer.cli.main import main
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.module import TrainingModule

Fit = Callable[..., Path]
STEPS = ("--trainer.max_steps", "6", "--trainer.val_check_interval", "2", "--optimizer.lr", "0.02")
EMA = ("--optimizer.ema", "0.5")


def saved(folder: Path) -> dict[str, Any]:
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


@pytest.mark.slow
def test_a_checkpoint_has_the_mean_of_the_weights_and_the_run_is_not_changed(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = saved(fit(*STEPS, name="without-mean"))
    weights: list[dict[str, torch.Tensor]] = []
    after = TrainingModule.on_train_batch_end

    def noted(self: TrainingModule, *given: Any) -> None:
        after(self, *given)
        weights.append({name: one.detach().clone() for name, one in self.model.named_parameters()})

    start = TrainingModule.on_train_start

    def begun(self: TrainingModule) -> None:
        start(self)
        weights.append({name: one.detach().clone() for name, one in self.model.named_parameters()})

    monkeypatch.setattr(TrainingModule, "on_train_batch_end", noted)
    monkeypatch.setattr(TrainingModule, "on_train_start", begun)
    checkpoint = saved(fit(*STEPS, *EMA, name="with-mean"))
    mean = dict(weights[0])
    for step, now in enumerate(weights[1:], start=1):
        share = min(0.5, (1 + step) / (10 + step))
        mean = {name: share * mean[name] + (1 - share) * now[name] for name in mean}
    found = model_weights(checkpoint)
    raw = checkpoint["callbacks"]["WeightAverage"]["weights"]
    for name, wanted in mean.items():
        torch.testing.assert_close(found[name], wanted)
        assert torch.equal(raw[name], weights[-1][name])
        assert torch.equal(raw[name], model_weights(plain)[name])


@pytest.mark.slow
def test_validation_is_that_of_the_mean(fit: Fit) -> None:
    folder = fit(*STEPS, *EMA, name="validated-mean")
    (row,) = [row for row in read_rows(folder / "metrics.jsonl") if row["step"] == 6 and "val/loss" in row]
    assert main(["validate", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]) == 0
    assert read_rows(folder / "evaluations.jsonl")[-1]["val/loss"] == pytest.approx(row["val/loss"], abs=1e-6)
    other = fit(*STEPS, name="validated-weights")
    (plain,) = [row for row in read_rows(other / "metrics.jsonl") if row["step"] == 6 and "val/loss" in row]
    assert row["val/loss"] != plain["val/loss"]


@pytest.mark.slow
def test_a_run_goes_on_with_the_mean_and_the_weights(fit: Fit) -> None:
    whole = saved(fit(*STEPS, *EMA, name="mean-whole"))
    half = fit(*STEPS[2:], "--trainer.max_steps", "3", "--optimizer.decay_steps", "6", *EMA, name="mean-half")
    again = fit(*STEPS[:2], "--ckpt_path", "last", name=half.name, given=["--trainer.enable_progress_bar", "false"])
    other = saved(again)
    for name, tensor in model_weights(whole).items():
        assert torch.equal(tensor, model_weights(other)[name]), name
    first, second = (one["callbacks"]["WeightAverage"]["weights"] for one in (whole, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_of_a_mean_does_not_go_on_without_it(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fit("--trainer.max_steps", "2", *EMA, name="mean-given-up")
    given = ["--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), "--trainer.max_steps", "4"]
    assert main(["fit", *given, "--optimizer.ema", "null"]) == 2
    assert "its weights are a running mean (optimizer.ema)" in capsys.readouterr().err
