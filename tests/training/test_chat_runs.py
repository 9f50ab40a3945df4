"""Runs on conversations from the command line: a decoder learns to answer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from tests.data.chats import SYSTEM, write_chats

SAID = {"red": "apple", "green": "leaf", "blue": "sky", "white": "milk"}
GIVEN = """
    --recipe tiny_decoder --recipe.vocab_size 260 --data.dataset chat --data.tokenizer bytes --data.length 48
    --objective.packing best_fit --data.batch_size 16 --optimizer.lr 1e-2 --trainer.max_steps 120 --run.wandb disabled
    --trainer.enable_progress_bar false --trainer.accelerator cpu --data.validation 0.2
"""


@pytest.mark.slow
def test_a_decoder_learns_to_answer_and_is_scored_on_answers_alone(
    tmp_path: Path, fit: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (template := tmp_path / "own.jinja").write_text(SYSTEM, encoding="utf-8")
    chats = [
        [{"role": "user", "content": f"{n} {asked}?"}, {"role": "assistant", "content": answer}]
        for n in range(100)
        for asked, answer in SAID.items()
    ]
    files = write_chats(tmp_path / "chats.jsonl", chats)
    own = ["--data.files", str(files), "--data.chat_template", str(template)]
    folder = fit(name="chat", given=[*GIVEN.split(), *own])
    metadata = read_metadata(folder / "checkpoints" / "last.ckpt")
    assert metadata["tokenizer"]["chat"]["template"] == SYSTEM
    assert metadata["evaluation"]["val/accuracy"] > 0.95  # impossible if random questions were scored too
    assert metadata["evaluation"]["val/bits_per_byte"] < 0.5
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["data"]["validation"]["conversations"] == 80
    assert facts["data"]["packing"]["train"]["documents_cut"] == 0
    capsys.readouterr()
    assert main(["predict", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt")]) == 0
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert all(set("".join(SAID.values())) >= set(row["target"]) for row in rows)
