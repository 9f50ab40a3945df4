"""A run of constant learning rate, continued in runs of their own in which the rate falls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import blockformer as bf
from blockformer.assembly.checkpoint import model_weights, read_checkpoint, read_metadata
from blockformer.cli.main import main
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.module import TrainingModule

Fit = Callable[..., Path]
QUIET = ["--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def trunk(fit: Fit) -> Path:
    return fit("--trainer.max_steps", "8", "--optimizer.schedule", "constant", name="trunk")


def rates(folder: Path) -> list[float]:
    return [row["learning_rate"] for row in read_rows(folder / "metrics.jsonl") if "learning_rate" in row]


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


@pytest.mark.slow
def test_a_fork_is_what_one_run_with_the_same_fall_would_be(fit: Fit, trunk: Path) -> None:
    falls = ["--optimizer.schedule", "wsd", "--optimizer.cooldown_steps", "4"]
    whole = fit("--trainer.max_steps", "12", *falls, name="in-one-run")
    fork = fit("--decay-from", str(trunk), "--optimizer.cooldown_steps", "4", name="fork", given=QUIET)
    assert rates(fork) == rates(whole)[8:]
    assert rates(fork)[-1] == 0
    one, other = (model_weights(read_checkpoint(last(folder))) for folder in (whole, fork))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert read_metadata(last(trunk))["step"] == 8


def test_a_fork_has_a_name_and_a_length_of_its_own(trunk: Path, runs: Path) -> None:
    assert main(["fit", "--decay-from", str(last(trunk)), "--run.root", str(runs), *QUIET]) == 0
    metadata = read_metadata(last(runs / "trunk-decay-8-2"))
    assert (metadata["step"], metadata["finished"]) == (10, True)


@pytest.mark.slow
def test_a_fork_that_was_stopped_goes_on_by_the_same_command(
    fit: Fit, trunk: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--decay-from", str(trunk), "--optimizer.cooldown_steps", "4", "--run.save_every", "1", *QUIET]
    whole = fit(*words, name="not-stopped", given=[])
    after = TrainingModule.on_train_batch_start

    def stopped(self: TrainingModule, *given: Any) -> None:
        if self.trainer.global_step == 10:
            raise OSError(28, "No space left on device")
        after(self, *given)

    command = ["fit", *words, "--run.root", str(runs), "--run.name", "stopped"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_batch_start", stopped)
        assert main(command) == 1
    assert read_metadata(last(runs / "stopped"))["step"] == 10
    capsys.readouterr()
    assert main(command) == 0
    assert "holds a run with the same settings, which continues" in capsys.readouterr().out
    assert rates(runs / "stopped") == rates(whole)
    one, other = (model_weights(read_checkpoint(last(folder))) for folder in (whole, runs / "stopped"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.slow
def test_a_fork_can_be_begun_from_python(trunk: Path, runs: Path) -> None:
    settings = {"decay_from": str(trunk), "optimizer.cooldown_steps": 4, "run.root": str(runs), "run.name": "of-python"}
    recipe = {"decoder.depth": 1, "embedding.dropout": 0.1}
    assert len(rates(bf.train("tiny_decoder", recipe, settings))) == 4


@pytest.mark.slow
def test_a_trunk_that_was_trained_for_epochs_has_the_same_forks(fit: Fit) -> None:
    constant = ["--optimizer.schedule", "constant", "--trainer.limit_train_batches", "4"]
    trunk = fit("--trainer.max_epochs", "1", *constant, name="trunk-of-an-epoch")
    fork = fit("--decay-from", str(trunk), "--optimizer.cooldown_steps", "6", name="fork-of-an-epoch", given=QUIET)
    assert read_metadata(last(fork))["step"] == 10


REFUSED = {
    "trainer.max_steps cannot be set with --decay-from": ["--trainer.max_steps", "9"],
    "optimizer.schedule cannot be set with --decay-from": ["--optimizer.schedule", "linear"],
    "--decay-from is for fit and cannot be combined with --init-from": ["--init-from", "x"],
    "--optimizer.cooldown_steps 0: must be a number of steps above 0": ["--optimizer.cooldown_steps", "0"],
    "--decay-from is given twice": ["--decay-from", "x"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_contradicts_a_fork_is_refused(message: str, trunk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--decay-from", str(trunk), *REFUSED[message]]) == 2
    assert message in capsys.readouterr().err


def test_a_run_whose_rate_falls_already_is_no_trunk(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fit("--trainer.max_steps", "6", name="no-trunk")
    assert main(["fit", "--decay-from", str(folder)]) == 2
    assert "at its step 6 the learning rate is 10% of the peak (schedule cosine" in capsys.readouterr().err
    assert main(["validate", "--decay-from", str(folder)]) == 2
    assert "--decay-from is for fit" in capsys.readouterr().err
    assert main(["fit", "--decay-from", "nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nowhere" in line


def test_a_trunk_with_a_setting_that_none_has_is_named(
    trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_checkpoint(last(trunk))
    content["blockformer"]["config"]["data"]["cache"] = "/tmp"
    torch.save(content, tmp_path / "strange.ckpt")
    assert main(["fit", "--decay-from", str(tmp_path / "strange.ckpt")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{tmp_path / 'strange.ckpt'}: config.data.cache is not a setting that a checkpoint stores"
