"""Every verb on a synthetic task, whose token ids are not text."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from blockformer.training.loggers.file_logger import read_rows

Fit = Callable[..., Path]
PARITY = [
    *("--recipe", "tiny_decoder", "--recipe.decoder.depth", "1", "--recipe.vocab_size", "2"),
    *("--data.dataset", "parity", "--data.length", "16", "--data.evaluation_length", "32", "--data.batch_size", "8"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"),
    *("--trainer.log_every_n_steps", "1", "--optimizer.warmup_steps", "2", "--trainer.limit_val_batches", "2"),
]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.limit_test_batches", "2"]


@pytest.fixture(scope="module")
def task(fit: Fit) -> Path:
    """A run of four steps."""
    return fit("--trainer.max_steps", "4", "--run.save_every", "2", name="task", given=PARITY)


def test_chance_and_ceiling_are_facts_of_the_run_and_its_checkpoints(task: Path) -> None:
    for facts in (
        json.loads((task / "facts.json").read_text())["data"],
        read_metadata(task / "checkpoints" / "last.ckpt")["data"],
    ):
        assert (facts["dataset"], facts["chance"], facts["ceiling"], facts["vocab_size"]) == ("parity", 0.5, 1.0, 2)
    assert read_metadata(task / "checkpoints" / "last.ckpt")["tokenizer"] is None
    assert "guessing reaches 0.5" in (task / "log.txt").read_text()
    assert "bits_per_byte" not in "".join(read_rows(task / "metrics.jsonl")[-1])


@pytest.mark.slow
def test_a_task_that_goes_on_ends_with_the_weights_of_one_that_ran_through(task: Path, fit: Fit) -> None:
    whole = fit("--trainer.max_steps", "6", "--optimizer.schedule", "constant", name="whole", given=PARITY)
    fit("--trainer.max_steps", "3", "--optimizer.schedule", "constant", name="parts", given=PARITY)
    more = ["--ckpt_path", "last", "--trainer.max_steps", "6", "--trainer.enable_progress_bar", "false"]
    parts = fit(*more, name="parts", given=[])
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_validate_test_and_predict_work_without_a_tokenizer(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = ["--ckpt_path", str(task / "checkpoints" / "last.ckpt")]
    assert main(["validate", *last, *QUIET]) == 0
    assert main(["test", *last, *QUIET, "--data.evaluation_length", "48"]) == 0
    shown = capsys.readouterr()
    assert "accuracy" in shown.out
    assert "rows have 48 tokens, 16 in training" in shown.err
    assert main(["predict", *last, *QUIET]) == 0
    row = json.loads((task / "predictions.jsonl").read_text().splitlines()[0])
    assert len(row["predicted"]) == len(row["target"]) == 16, "the places beyond the trained length"
    assert {*row["predicted"], *row["target"]} <= {0, 1}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("generate {task} --prompt a", "it was trained on 'parity', whose token ids are not text"),
        ("validate --ckpt_path {task}/checkpoints/last.ckpt --data.dataset docstrings", "without a tokenizer, which"),
        ("validate --ckpt_path {task}/checkpoints/last.ckpt --data.dataset mqar", "data.length 16 is too short"),
        (
            "fit --recipe tiny_decoder --data.dataset mqar --data.tokenizer bytes",
            "data.tokenizer has no effect with dat",
        ),
        ("fit --recipe tiny_decoder --data.dataset mqar --data.evaluation_length 128", "evaluation_length 128 is more"),
        (
            "fit --recipe tiny_decoder --recipe.vocab_size 9 --data.dataset mqar",
            "dataset mqar has 128 token ids and the",
        ),
        ("fit --recipe tiny_encoder --data.dataset mqar", "objective masked_lm cannot use dataset mqar: choose docstr"),
    ],
)
def test_what_needs_text_is_refused_in_one_line(
    task: Path, command: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--run.root", str(tmp_path)] if command.startswith("fit") else []
    assert main([*command.format(task=task).split(), *more]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_model_of_text_is_not_scored_on_a_task(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--trainer.max_steps", "1", name="of-text")
    assert main(["validate", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--data.dataset", "parity"]) == 2
    assert "the token ids of dataset 'parity' are not text: start a new run from its weights" in capsys.readouterr().err


def test_a_task_may_begin_with_the_weights_of_another(task: Path, fit: Fit) -> None:
    run = fit("--trainer.max_steps", "1", "--init-from", str(task), name="warm", given=PARITY)
    assert read_metadata(run / "checkpoints" / "last.ckpt")["warm_start"]["source"] == str(task)
