"""Losses by document, and resampling of documents."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from blockformer.cli.main import main
from blockformer.data.module import TextData
from blockformer.studies.documents import Losses, document_losses, resampled, stored_losses
from blockformer.training.objectives import ObjectiveSettings
from blockformer.training.run_folder import settings_text
from blockformer.training.signature import sign

OPTIONS = ["--data.length", "32", "--data.max_bytes", "60000", "--data.tokenizer", "bytes", "--trainer.max_steps", "2"]


def losses(seed: int, better: float = 0.0, number: int = 400) -> Losses:
    random = np.random.default_rng(seed)
    targets = np.full(number, 20.0)
    nll = (2 - better + random.normal(0, 0.3, number)) * targets
    return {name: values.tolist() for name, values in {"nll": nll, "targets": targets, "bytes": targets * 3}.items()}


def test_the_interval_is_that_of_the_mean_over_documents() -> None:
    """With documents of equal length the bootstrap is near the classical interval of the mean of differences."""
    variant, base = losses(1, better=0.1), losses(2)
    found = resampled([variant], [base], "loss")
    assert found is not None
    difference = (np.array(variant["nll"]) - np.array(base["nll"])) / 20
    low, high = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.006)
    bits = resampled([variant], [base], "bits_per_byte")
    assert bits is not None
    assert bits["low"] == pytest.approx(found["low"] / 3 / np.log(2))


def test_nothing_is_said_of_a_figure_that_is_no_ratio_or_of_different_documents() -> None:
    assert resampled([losses(1)], [losses(2)], "perplexity") is None
    assert resampled([losses(1)], [losses(2, number=399)], "loss") is None
    assert resampled([], [], "loss") is None


def test_a_run_from_elsewhere_names_no_file_to_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"data": {"dataset": "text", "files": "/etc/passwd"}, "objective": {"type": "causal_lm"}}
    (tmp_path / "config.yaml").write_text(settings_text(settings))
    assert stored_losses(tmp_path, tmp_path / "store.json", "validation") is None
    assert "its data files were named by another user or on another machine" in capsys.readouterr().err
    signature = sign(settings["data"], settings["objective"])
    (tmp_path / "config.yaml").write_text(settings_text(settings, signature))
    assert stored_losses(tmp_path, tmp_path / "store.json", "validation") is None
    assert "last.ckpt: " in capsys.readouterr().err  # there is no checkpoint, but the files may be read


@pytest.mark.parametrize(
    "config", ["x", "[]", "data: 5", "data: {}\nobjective: []", "a: &a [*a]", "data: {x: 1}\nobjective: {}"]
)
def test_a_damaged_configuration_of_a_run_is_named(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(config)
    assert stored_losses(tmp_path, tmp_path / "store.json", "validation") is None
    said = capsys.readouterr().err
    assert said.startswith(f"note: {tmp_path} is left out of the resampled documents: ")
    assert said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "objective"),
    [
        ("tiny_decoder", "causal_lm"),
        ("tiny_decoder", "fill_in_the_middle"),
        ("tiny_encoder", "masked_lm"),
        ("tiny_encoder_decoder", "seq2seq"),
        ("tiny_encoder_decoder", "span_corruption"),
    ],
)
def test_the_losses_of_all_documents_add_up_to_the_validation(
    recipe: str, objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run.root", str(tmp_path), "--run.name", "one", "--run.wandb", "disabled"]
    pairs = ["--data.length", "64", "--data.pairs", "2000", "--data.tokenizer", "bytes", "--trainer.max_steps", "2"]
    options = pairs if objective == "seq2seq" else OPTIONS
    chosen = ["--recipe", recipe, "--recipe.vocab_size", "300", "--objective.type", objective]
    assert main(["fit", *chosen, *options, "--data.batch_size", "8", *run]) == 0
    folder = tmp_path / "one"
    found = document_losses(folder / "checkpoints" / "last.ckpt", folder / "config.yaml", "validation")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    row = [row for row in rows if "val/loss" in row][-1]
    targets = sum(found["targets"])
    assert sum(found["nll"]) / targets == pytest.approx(row["val/loss"], rel=1e-5)
    assert sum(found["correct"]) / targets == pytest.approx(row["val/accuracy"], rel=1e-5)
    if objective in ("causal_lm", "seq2seq"):  # the others have no code length
        assert sum(found["nll"]) / np.log(2) / sum(found["bytes"]) == pytest.approx(row["val/bits_per_byte"], rel=1e-5)
    data = TextData(**yaml.safe_load((folder / "config.yaml").read_text())["data"])
    if objective == "causal_lm":
        assert len(found["nll"]) == data.facts()["validation"]["documents"]
    else:
        data.configure(objective=ObjectiveSettings(objective).objective)
        assert len(found["nll"]) == sum(len(batch["targets"]) for batch in data.loader("validation"))

    store = tmp_path / "store.json"
    assert stored_losses(folder, store, "validation") == found
    for damaged in ('{"nll": [1', "[]", '{"nll": [1.0]}', store.read_text().replace("]", ", 1.0]", 1)):
        store.write_text(damaged)
        assert stored_losses(folder, store, "validation") == found
    checkpoint = folder / "checkpoints" / "last.ckpt"
    for spoil in (lambda: checkpoint.write_bytes(b"none"), checkpoint.unlink, (folder / "config.yaml").unlink):
        spoil()
        assert stored_losses(folder, store, "validation") == found
        capsys.readouterr()
        assert stored_losses(folder, tmp_path / "other.json", "validation") is None
        assert "one is left out of the resampled documents: " in capsys.readouterr().err
