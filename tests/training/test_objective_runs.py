"""Every objective trains a model by the command line."""

from pathlib import Path

import pytest

from blockformer.cli.main import main
from blockformer.training.loggers.file_logger import read_rows
from registry import entries
from tests.training.test_objective_rows import CASES

RECIPES = {"decoder_only": "tiny_decoder", "encoder_only": "tiny_encoder", "encoder_decoder": "tiny_encoder_decoder"}
LEVELS = {"fill_in_the_middle": 0.8, "span_corruption": 0.6, "ul2": 0.6}
"""Share of the targets that the model finds; less than 0.9 where some cannot be known, or 300 steps are too few."""

OBJECTIVES = {name: entry.block for name, entry in entries("objective").items()}
OF_BYTES = ("causal_lm", "seq2seq", "distillation", "multi_token_prediction")
"""Objectives whose targets are the bytes of the text."""


OF_TOKENS = [case for case in CASES if not (OBJECTIVES[case[0]].pooled or OBJECTIVES[case[0]].per_token)]
"""The other objectives have tests of their own."""


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_TOKENS, ids=lambda case: "-".join((case[0], *case[1])))
def test_an_objective_trains_a_model_to_a_known_level(case: tuple[str, dict[str, float]], tmp_path: Path) -> None:
    name, options = case
    objective = entries("objective")[name].block
    letters = "abcdefghijklmnopqrstuvwxyz"
    line = "abc def ghi jkl mno pqr stu vwx yz " if options.get("unit") == "word" else letters
    (tmp_path / "text.txt").write_text("\n\n".join(line[n % 26 :] + line * 40 for n in range(40)))
    (tmp_path / "pairs.tsv").write_text(
        "".join(f"{(letters * 2)[n % 26 : n % 26 + n % 9 + 2]}\t{letters}\n" for n in range(999))
    )
    documents = "documents" in objective.forms
    data = ["text", str(tmp_path / "text.txt")] if documents else ["pairs", str(tmp_path / "pairs.tsv")]
    command = ["fit", "--recipe", RECIPES[objective.kinds[0]], "--recipe.vocab_size", "300"]
    command += ["--data.dataset", data[0], "--data.files", data[1], "--data.tokenizer", "bytes", "--data.length", "48"]
    command += ["--data.batch_size", "16", "--trainer.max_steps", "300", "--optimizer.lr", "3e-3"]
    command += ["--optimizer.warmup_steps", "20", "--run.root", str(tmp_path), "--trainer.accelerator", "cpu"]
    command += ["--trainer.enable_progress_bar", "false"]
    if objective.trains_extra:
        command += ["--recipe.extra_predictions", "[sequential]"]
    if "teacher" in objective.reads:
        assert main([*command, "--run.name", "teacher"]) == 0
        options = {**options, "teacher": str(tmp_path / "teacher")}
    command += ["--objective.type", name, "--run.name", "r"]
    command += [word for key, value in options.items() for word in (f"--objective.{key}", str(value))]
    assert main(command) == 0
    figures = [row for row in read_rows(tmp_path / "r" / "metrics.jsonl") if "val/loss" in row][-1]
    assert figures["val/accuracy"] > LEVELS.get(name, 0.9)
    assert ("val/bits_per_byte" in figures) == (name in OF_BYTES)
    assert main(["validate", "--ckpt_path", str(tmp_path / "r" / "checkpoints" / "last.ckpt")]) == 0
