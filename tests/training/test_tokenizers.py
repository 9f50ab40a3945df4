"""A run with each tokenizer: trained, scored, generated from and exported."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import transformers

from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from blockformer.data.tokenizers.stored import from_dump
from blockformer.generation.text_model import TextModel

KINDS = {"unigram": ("tiny_decoder", 300), "wordpiece": ("tiny_encoder", 120)}
_NUMBERS = count()
ODD = "the quick brown <eos> fox,\n\tjumps  over 13 Größe 🙂"


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, fit: Callable[..., Path]) -> tuple[str, Path]:
    recipe, size = KINDS[request.param]
    depth = [f"--recipe.{'decoder' if recipe == 'tiny_decoder' else 'encoder'}.depth", "1"]
    given = ["--recipe", recipe, *depth, "--recipe.vocab_size", str(size), "--data.tokenizer", request.param]
    name = f"{request.param}-{next(_NUMBERS)}"  # tests may run in an order in which it is made again
    return request.param, fit(*given, "--trainer.max_steps", "3", name=name, given=_shared(request))


def _shared(request: pytest.FixtureRequest) -> list[str]:
    """The command line of all tests, without its recipe."""
    given: list[str] = request.getfixturevalue("arguments")
    return given[given.index("--data.dataset") :]


def test_the_checkpoint_has_the_tokenizer_and_the_recipe_decides_its_size(run: tuple[str, Path]) -> None:
    kind, folder = run
    metadata = read_metadata(folder / "checkpoints" / "last.ckpt")
    made = from_dump(metadata["tokenizer"])
    assert made.kind == metadata["data"]["tokenizer"] == kind
    assert metadata["config"]["data"]["vocab_size"] == KINDS[kind][1]
    assert 5 < made.vocab_size <= KINDS[kind][1]
    assert made.decode(made.encode("the quick brown fox")) == "the quick brown fox"


def test_bits_per_byte_are_given_where_tokens_tell_the_text(run: tuple[str, Path]) -> None:
    kind, folder = run
    found = read_metadata(folder / "checkpoints" / "last.ckpt")["evaluation"]
    assert ("val/bits_per_byte" in found) == (kind == "unigram")
    noted = "bits per byte are left out: tokenizer 'wordpiece' does not" in (folder / "log.txt").read_text()
    assert noted == (kind == "wordpiece")


def test_it_is_generated_from(run: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    kind, folder = run
    prompt = "the quick" if kind == "unigram" else "the _ fox"
    assert main(["generate", str(folder), "--prompt", prompt]) == 0
    written = capsys.readouterr().out
    assert written.startswith("the quick") if kind == "unigram" else "  blank 1: " in written


def test_transformers_loads_the_same_tokenizer(run: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = run
    assert main(["export", str(folder), "--to", "hf", "--custom", "--no-verify", "--out", str(tmp_path / "out")]) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = ODD.replace("<eos>", "eos") if kind == "wordpiece" else ODD
    assert theirs(text)["input_ids"] == TextModel.load(folder).encode(text)
    assert (theirs.pad_token, theirs.mask_token) == ("<pad>", "<mask>")
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings.get("unk_token") == ("<unk>" if kind == "wordpiece" else None)


@pytest.mark.parametrize("objective", ["fill_in_the_middle", "causal_lm"])
def test_a_learned_vocabulary_leaves_room_for_the_tokens_of_the_objective(
    objective: str, fit: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    given = ["--recipe", "tiny_decoder", "--recipe.vocab_size", "290", "--data.tokenizer", "bpe", "--data.length", "32"]
    given += ["--objective.type", objective, "--trainer.max_steps", "1", "--recipe.decoder.depth", "1"]
    folder = fit(*given, name=f"room-for-{objective}", given=_shared(request))
    metadata = read_metadata(folder / "checkpoints" / "last.ckpt")
    own = 3 if objective == "fill_in_the_middle" else 0
    assert metadata["config"]["data"]["vocab_size"] == from_dump(metadata["tokenizer"]).vocab_size == 290 - own
