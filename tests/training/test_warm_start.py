"""`fit --init-from`: a run that begins with what another has learned."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import blockformer as bf
from blockformer.assembly.checkpoint import model_weights, read_checkpoint, read_metadata
from blockformer.cli.main import main
from blockformer.data.tokenizers import stored
from blockformer.data.tokenizers.bpe import BPE
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.training.init_from import matching_ids, matching_tokens
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.loggers.sent_rows import CLOCKS
from blockformer.training.objectives import FillInTheMiddle, MixtureOfDenoisers, Objective, SpanCorruption
from tests.training.wandb_log import read_run

Fit = Callable[..., Path]
STILL = ("--trainer.max_steps", "1", "--optimizer.lr", "1e-9")
GROWN = ("--recipe.decoder.depth=2", "--recipe.decoder.layer.mixer.kv_heads=4")


def state(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return model_weights(read_checkpoint(folder / "checkpoints" / f"{name}.ckpt"))


def figures(folder: Path) -> list[dict[str, Any]]:
    rows = read_rows(folder / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in rows]


@pytest.fixture(scope="module")
def trained(fit: Fit) -> Path:
    """A run that has learned something, in its only validation too."""
    return fit("--trainer.max_steps", "25", "--trainer.val_check_interval", "25", "--optimizer.lr=1e-2", name="trained")


def last_loss(folder: Path) -> float:
    return [row["val/loss"] for row in read_rows(folder / "metrics.jsonl") if "val/loss" in row][-1]


@pytest.mark.slow
def test_a_run_of_another_recipe_begins_where_the_checkpoint_ended(
    start: Callable[..., Any], fit: Fit, trained: Path, arguments: list[str], runs: Path
) -> None:
    options = [*arguments, *GROWN, *STILL, "--run.root", str(runs), "--run.name", "grown", "--run.wandb", "offline"]
    process = start("fit", *options, "--init-from", str(trained))
    cold = fit(*GROWN, *STILL, name="cold")
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert f"warm start from {trained}, step 25, val/loss {last_loss(trained):.4f}: " in output
    assert "decoder.layers.0.mixer.{k, v}" in output
    assert "2 key heads repeated to 4" in output
    assert "the recipes differ: decoder, all layers, mixer: kv_heads 2 -> 4; decoder: depth 1 -> 2" in output
    assert last_loss(runs / "grown") == pytest.approx(last_loss(trained), abs=1e-4)
    assert last_loss(cold) > last_loss(trained) + 0.5
    told = json.loads((runs / "grown" / "init.json").read_text())
    size = bf.build("tiny_decoder", [option.removeprefix("--recipe.") for option in GROWN]).size
    assert sum(told["sizes"][kind] for kind in ("carried", "adapted", "fresh")) == size
    assert sum(row["size"] for row in told["parameters"]) == sum(told["sizes"].values())
    logged = read_run(runs / "grown" / "wandb").config["warm_start"]
    assert logged["sizes"] == told["sizes"]
    assert logged["source"] == str(trained)
    assert read_metadata(runs / "grown" / "checkpoints" / "last.ckpt")["warm_start"]["sizes"] == told["sizes"]
    before, after = state(cold), state(runs / "grown")
    fresh = "decoder.layers.1.mixer.q.weight"
    torch.testing.assert_close(before[fresh], after[fresh], atol=1e-8, rtol=0)  # after one step of 1e-9


@pytest.mark.slow
def test_a_run_that_began_so_continues_with_its_own_weights(fit: Fit, trained: Path) -> None:
    options = [*GROWN, "--init_from", str(trained)]
    whole = fit(*options, "--trainer.max_steps", "6", "--trainer.val_check_interval", "3", name="warm-whole")
    stopped = fit(
        *options,
        *("--trainer.max_steps", "3", "--trainer.val_check_interval", "3", "--optimizer.decay_steps", "6"),
        name="warm-stopped",
    )
    shutil.rmtree(stopped.parent / "gone", ignore_errors=True)
    trained.rename(stopped.parent / "gone")
    try:
        given = ["--ckpt_path", "last", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
        continued = fit(*given, "--run.wandb=disabled", "--trainer.max_steps", "6", name="warm-stopped", given=[])
    finally:
        (stopped.parent / "gone").rename(trained)
    assert figures(continued) == figures(whole)
    assert all(torch.equal(tensor, state(whole)[name]) for name, tensor in state(continued).items())
    facts = [read_metadata(folder / "checkpoints" / "last.ckpt")["warm_start"] for folder in (continued, whole)]
    assert facts[0] == facts[1]
    assert f"init_from: {trained}" in (continued / "config.yaml").read_text()


@pytest.mark.slow
def test_the_saved_configuration_repeats_a_warm_start(
    fit: Fit, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit(*GROWN, *STILL, "--init-from", str(trained), name="warm-first")
    capsys.readouterr()
    again = fit("--config", str(first / "config.yaml"), name="warm-again", given=[])
    assert f"warm start from {trained}" in capsys.readouterr().out
    assert figures(again) == figures(first)


def test_an_imported_folder_will_do_and_its_unknown_tokenizer_is_said(
    fit: Fit, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(trained / "recipe.yaml", tmp_path / "recipe.yaml")
    save_file(state(trained, "best"), tmp_path / "model.safetensors")
    folder = fit(*STILL, "--init-from", str(tmp_path), name="from-import")
    output = capsys.readouterr().out
    size = sum(tensor.numel() for tensor in state(trained).values())
    assert f"warm start from {tmp_path}: {size:,} carried\n" in output
    assert "its tokenizer is unknown: tokens are matched by id" in output
    assert last_loss(folder) == pytest.approx(last_loss(trained), abs=1e-4)


def test_tokens_of_another_tokenizer_are_found_by_their_text(
    fit: Fit, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = ["--data.tokenizer", "bpe", "--data.vocab_size", "290", "--recipe.vocab_size", "290"]
    folder = fit(*pieces, *STILL, "--init-from", str(trained), name="from-bytes")
    output = capsys.readouterr().out
    assert "260 of 290 tokens found by their text, the others near the mean of the old" in output
    made = stored.from_dump(read_metadata(folder / "checkpoints" / "last.ckpt")["tokenizer"])
    here, there = (state(run)["embedding.tokens.weight"] for run in (folder, trained))
    said = f"its tokenizer differs: 260 of {made.vocab_size} tokens are in both and keep their rows"
    assert said in output
    token = made.pieces.index(b"q")
    assert token != 4 + ord("q")
    torch.testing.assert_close(here[token], there[4 + ord("q")], atol=1e-6, rtol=0)


def test_ids_are_matched_by_bytes_and_special_tokens_by_id() -> None:
    old = ByteTokenizer()
    new = BPE(vocab_size=264).learn(lambda: ["the cat and the hat"] * 20)
    ids = matching_ids(new, old)
    assert ids[:4] == [0, 1, 2, 3]
    assert all(old.pieces[was] == new.pieces[token] for token, was in enumerate(ids) if was >= 0)
    assert ids.count(-1) == new.vocab_size - 260
    assert sorted(was for was in ids if was >= 0) == list(range(260))


def test_tokens_of_objectives_are_matched_by_name() -> None:
    tokenizer, length = ByteTokenizer(), 32
    first = tokenizer.vocab_size

    def numbered(objective: Objective) -> dict[str, int]:
        return {name: first + number for number, name in enumerate(objective.extra_tokens(length))}

    spans, mixed, middle = (numbered(one) for one in (SpanCorruption(), MixtureOfDenoisers(), FillInTheMiddle()))
    ids = matching_tokens(tokenizer, spans, tokenizer, mixed)
    assert ids[:first] == list(range(first))
    assert {name: ids[token] for name, token in spans.items()} == {name: mixed[name] for name in spans}
    assert matching_tokens(tokenizer, middle, tokenizer, spans)[first:] == [-1] * 3
    assert matching_tokens(tokenizer, {}, tokenizer, spans) == list(range(first))
    longer = matching_tokens(tokenizer, mixed, None, spans)
    assert {name for name, token in mixed.items() if longer[token] >= 0} == {*spans}


@pytest.mark.slow
def test_a_run_takes_the_rows_of_tokens_that_two_objectives_share(fit: Fit, text: Path, runs: Path) -> None:
    common = [
        *("--recipe", "tiny_encoder_decoder", "--recipe.vocab_size", "300", "--data.dataset", "text"),
        *(f"--data.files={text}", "--data.tokenizer", "bytes", "--data.length", "24", "--data.batch_size", "8"),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"),
    ]
    before = fit("--objective.type", "ul2", "--trainer.max_steps", "3", name="ul2", given=common)
    options = ["--objective.type", "span_corruption", "--init-from", str(before), *STILL]
    after = fit(*options, name="spans", given=common)
    old, new = (read_metadata(run / "checkpoints" / "last.ckpt")["extra_tokens"] for run in (before, after))
    assert {*new} < {*old}
    trained, begun = (state(run)["embedding.tokens.weight"] for run in (before, after))
    for name, token in new.items():
        assert token != old[name]
        torch.testing.assert_close(begun[token], trained[old[name]], rtol=0, atol=1e-6)
    assert f"{len(new)} of {len(new)} tokens of the objective are in both" in (after / "log.txt").read_text()


WRONG = {
    "nowhere": "nowhere: there is no such file",
    "text": "is truncated, damaged or not a checkpoint",
    "foreign": "is not a checkpoint of blockformer",
    "empty": "has no recipe.yaml",
    "cut": "is truncated, damaged or not a checkpoint",
    "other": "nothing carries over",
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_begun_with_is_refused_in_one_line(
    kind: str, trained: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, last = tmp_path / kind, (trained / "checkpoints" / "last.ckpt").read_bytes()
    if kind == "empty":
        path.mkdir()
    elif kind == "foreign":
        torch.save({"weights": torch.zeros(2)}, path)
    elif kind != "nowhere":
        path.write_bytes({"text": b"hello", "cut": last[: len(last) // 2], "other": last}[kind])
    other = ["--recipe.dim", "24", "--recipe.decoder.layer.feedforward.hidden", "40"] if kind == "other" else []
    run = ["--run.root", str(tmp_path / "runs"), "--trainer.max_steps", "1"]
    assert main(["fit", *arguments, *other, *run, "--init-from", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert WRONG[kind] in line


def test_beginning_and_continuing_exclude_each_other(
    trained: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    last = str(trained / "checkpoints" / "last.ckpt")
    assert main(["fit", *arguments, "--init-from", str(trained), "--ckpt_path", last]) == 2
    assert "--init-from starts a run from weights of another, and --ckpt_path continues" in capsys.readouterr().err
    assert main(["validate", "--init-from", str(trained), "--ckpt_path", last]) == 2
    assert "--init-from is for fit; validate takes the model of --ckpt_path" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_begin_alike_and_report_once(
    strategy: str, together: Callable[..., Any], fit: Fit, trained: Path, arguments: list[str], runs: Path
) -> None:
    options = [*GROWN, "--trainer.max_steps", "3", "--recipe.embedding.dropout=0", "--init-from", str(trained)]
    two = ["--trainer.devices", "2", "--trainer.strategy", strategy, "--run.root", str(runs)]
    process = together("fit", *arguments, *options, *two, "--run.name", f"warm-{strategy}")
    one = fit(*options, name=f"warm-one-{strategy}")
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert output.count("warm start from") == 1
    for name, tensor in state(runs / f"warm-{strategy}").items():
        torch.testing.assert_close(tensor, state(one)[name], rtol=1e-4, atol=1e-6)
