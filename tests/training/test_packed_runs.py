"""Models are trained on packed documents by the command line."""

import json
from pathlib import Path

import pytest

from blockformer.cli.main import main
from blockformer.training.loggers.file_logger import read_rows


def fit(folder: Path, *options: str) -> None:
    command = ["fit", "--recipe", "tiny_decoder", "--recipe.vocab_size", "260", "--data.tokenizer", "bytes"]
    command += ["--data.length", "64", "--data.batch_size", "8", "--optimizer.lr", "3e-3", "--run.name", "r"]
    command += ["--run.root", str(folder), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    assert main([*command, *options]) == 0


@pytest.mark.slow
def test_a_run_on_packed_documents_says_how_much_is_padding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"text": "abcdefghijklmnopqrstuvwxyz"[: n % 20 + 6]}) + "\n" for n in range(400)]
    (tmp_path / "table.jsonl").write_text("".join(lines))
    data = ["--data.dataset", "table", "--data.files", str(tmp_path / "table.jsonl"), "--data.validation", "0.2"]
    fit(tmp_path, *data, "--objective.packing", "best_fit", "--trainer.max_steps", "60")
    packing = json.loads((tmp_path / "r" / "facts.json").read_text())["data"]["packing"]
    assert packing["train"]["documents_cut"] == 0
    assert 0 <= packing["train"]["padding"] < 0.1
    figures = [row for row in read_rows(tmp_path / "r" / "metrics.jsonl") if "val/loss" in row][-1]
    assert figures["val/accuracy"] > 0.6
