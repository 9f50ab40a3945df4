"""`blockformer.train()`: what `fit` does, for callers in Python."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import blockformer as bf
from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from blockformer.errors import UserError
from blockformer.training.loggers.file_logger import read_rows


@pytest.fixture
def settings(text: Path, tmp_path: Path) -> dict[str, Any]:
    """What makes a run of one step, in values of Python."""
    return {
        "data": {"dataset": "text", "files": [str(text)], "tokenizer": "bytes", "length": 32, "batch_size": 16},
        "trainer": {"accelerator": "cpu", "max_steps": 1, "enable_progress_bar": False},
        "run": {"root": str(tmp_path), "name": "mine", "wandb": "disabled"},
    }


def state_of_the_process() -> tuple[Any, ...]:
    loggers = {name: logging.getLogger(name).level for name in (None, "lightning", "lightning.pytorch", "wandb")}
    return list(warnings.filters), loggers, dict(os.environ), list(sys.argv)


def test_warnings_logging_and_environment_are_as_before(settings: dict[str, Any]) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    before = state_of_the_process()
    bf.train("tiny_decoder", settings=settings)
    assert state_of_the_process() == before


def test_warnings_logging_and_environment_are_as_before_after_an_error(settings: dict[str, Any]) -> None:
    before = state_of_the_process()
    with pytest.raises(UserError, match=r"there is no option --data.lenght; did you mean --data.length\?"):
        bf.train("tiny_decoder", settings=settings | {"data.lenght": 4})
    assert state_of_the_process() == before


def test_settings_are_values_of_python_and_the_command_line_is_not_read(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["mine.py", "--optimizer.lr", "7"])
    folder = bf.train("tiny_decoder", {"decoder.depth": 1}, settings | {"optimizer.lr": 0.5, "trainer.max_steps": 2})
    metadata = read_metadata(folder / "checkpoints" / "last.ckpt")
    assert metadata["recipe"]["decoder"]["depth"] == 1
    assert metadata["config"]["optimizer"]["lr"] == 0.5
    assert metadata["step"] == 2
    assert metadata["config"]["data"]["length"] == 32


@pytest.mark.slow
def test_a_run_continues_with_the_settings_of_its_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = bf.train("tiny_decoder", settings=settings)
    again = {"ckpt_path": "last", "run.root": tmp_path, "run.name": "mine", "run.wandb": "disabled"}
    assert bf.train("tiny_decoder", settings=again | {"trainer.max_steps": 2}) == folder
    assert read_rows(folder / "metrics.jsonl")[-1]["step"] == 2
    assert read_metadata(folder / "checkpoints" / "last.ckpt")["config"]["data"]["batch_size"] == 16


def test_a_recipe_may_be_a_mapping_and_settings_a_file(settings: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("recipe: gpt2\noptimizer: {lr: 0.25}\n")
    recipe = {"type": "decoder_only", "vocab_size": 260, "max_length": 32, "dim": 16}
    folder = bf.train(recipe, ["decoder.depth=1"], settings | {"config": config})
    metadata = read_metadata(folder / "checkpoints" / "last.ckpt")
    assert (metadata["recipe"]["dim"], metadata["config"]["optimizer"]["lr"]) == (16, 0.25)


def test_a_recipe_is_loaded_and_checked_once(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from blockformer.assembly import builder
    from registry import recipe

    done: list[str] = []
    for module, name in ((recipe, "parse"), (builder, "unused_keys")):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=function, n=name: (done.append(n), f(*a))[1])
    bf.train("tiny_decoder", settings=settings)
    assert done == ["parse", "unused_keys"]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("  decoder: {dept: 2}", "decoder.dept: stack 'layers' has no parameter 'dept'"),
        ("  decoder: {layer: {mixer: {heads: 5}}}", "decoder.layer.mixer: dim=64 is not a multiple of heads=5"),
        ("  decoder: {layer: {feedforward: glue}}", "decoder.layer.feedforward: "),
    ],
)
def test_a_recipe_in_a_configuration_file_keeps_its_lines(
    line: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"recipe:\n  type: decoder_only\n  dim: 64\n{line}\n")
    assert main(["fit", "--config", str(config)]) == 2
    assert capsys.readouterr().err.startswith(f"{config}:4: {answer}")
