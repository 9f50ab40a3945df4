"""Runs and figures that are infinite or NaN."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from blockformer.assembly.checkpoint import model_weights, read_checkpoint, read_metadata
from blockformer.cli.main import main
from blockformer.training.callbacks import Checkpoints, NonFiniteGuard
from blockformer.training.module import TrainingModule


def saved_steps(folder: Path, figures: list[float]) -> list[int]:
    """The steps at which `best.ckpt` is written when validations give these figures."""
    steps: list[int] = []
    state = SimpleNamespace(fn="fit")
    trainer: Any = SimpleNamespace(state=state, sanity_checking=False, fast_dev_run=False, global_step=0)
    trainer.save_checkpoint = lambda path: steps.append(trainer.global_step)
    checkpoints = Checkpoints(folder, 0, "val/loss", NonFiniteGuard())
    for step, figure in enumerate(figures, start=1):
        trainer.global_step, trainer.callback_metrics = step, {"val/loss": torch.tensor(figure)}
        checkpoints.on_validation_end(trainer, None)  # type: ignore[arg-type]
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
            self._evaluated = torch.full((6,), math.nan)
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
    assert main(["fit", *arguments, *options]) == 1
    assert "the loss or its gradient is not finite since step" in capsys.readouterr().err
    weights = model_weights(read_checkpoint(runs / "nan" / "checkpoints" / "last.ckpt"))
    assert all(tensor.isfinite().all() for tensor in weights.values())
