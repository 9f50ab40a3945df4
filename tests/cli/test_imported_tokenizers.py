"""Imported folders generate and train with the tokenizer that they were published with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from blockformer.generation.text_model import TextModel
from tests.data.published import write_published

Run = Callable[..., Path]
Make = Callable[[str], tuple[Path, Path]]
QUIET = ("--trainer.enable_progress_bar", "false", "--run.wandb", "disabled", "--trainer.accelerator", "cpu")


def model_of(name: str) -> Any:
    """A small model of transformers with all parameters drawn, so that its choices differ."""
    made: Any
    if name == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=320, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
        )
        made = transformers.GPT2LMHeadModel(config)
    elif name == "bert":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        made = transformers.BertForMaskedLM(
            transformers.BertConfig(vocab_size=300, max_position_embeddings=64, **sizes)
        )
    else:
        config = transformers.T5Config(vocab_size=310, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        config.decoder_start_token_id, config.tie_word_embeddings = 0, True
        made = transformers.T5ForConditionalGeneration(config)
    for parameter in made.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made.eval()


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A folder of Hugging Face with a model and its tokenizer, and what `blockformer import` makes of it."""
    root, known = tmp_path_factory.mktemp("imported"), dict[str, tuple[Path, Path]]()

    def make(name: str) -> tuple[Path, Path]:
        if name not in known:
            folder = write_published(name, root / f"{name}-hub")
            with torch.random.fork_rng():
                torch.manual_seed(1)
                model_of(name).save_pretrained(folder)
            assert main(["import", str(folder), "--out", str(root / name)]) == 0
            known[name] = folder, root / name
        return known[name]

    return make


def test_a_decoder_continues_a_text_as_transformers_does(imported: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder, ours = imported("gpt2")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    for prompt in ("The cat", "日本", "It's 12"):
        capsys.readouterr()
        assert main(["generate", str(ours), "--prompt", prompt, "--greedy", "--max-new-tokens", "12"]) == 0
        ids = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=12, do_sample=False)
        wanted = tokenizer.decode(ids[0], skip_special_tokens=True)
        assert capsys.readouterr().out == f"{wanted}\n"


def test_an_encoder_decoder_writes_as_transformers_does(imported: Make) -> None:
    folder, ours = imported("t5")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    for source in ("The cat sat", "Übung macht", "a 日本 b"):
        written = "".join(TextModel.load(ours).stream("", source=source, max_new_tokens=10))
        ids = model.generate(**tokenizer(source, return_tensors="pt"), max_new_tokens=10, do_sample=False)
        assert written == tokenizer.decode(ids[0], skip_special_tokens=True)


def test_an_encoder_fills_in_what_transformers_finds_most_probable(
    imported: Make,
) -> None:
    folder, ours = imported("bert")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), mask_token="[MASK]")
    model = transformers.BertForMaskedLM.from_pretrained(folder)
    encoded = tokenizer("the cat [MASK] on the mat", return_tensors="pt")
    place = encoded["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    with torch.no_grad():
        logits = model(**encoded).logits[0, place]
    logits[tokenizer.mask_token_id] = float("-inf")
    _, (blank,) = TextModel.load(ours).fill_masks("the cat _ on the mat", "_")
    assert blank.token == int(logits.argmax())
    assert blank.position == place


def without_tokenizer(arguments: list[str]) -> list[str]:
    """A command line for `fit` that does not choose a tokenizer, and has no recipe."""
    dropped = ("--recipe", "--recipe.decoder.depth", "--recipe.embedding.dropout", "--data.tokenizer")
    places = {place for name in dropped for place in (arguments.index(name), arguments.index(name) + 1)}
    return [word for place, word in enumerate(arguments) if place not in places]


@pytest.fixture(scope="module")
def begin(imported: Make, fit: Run, arguments: list[str]) -> Run:
    """Run `blockformer fit` from the imported folder."""
    _, ours = imported("gpt2")
    start = ["--recipe", str(ours / "recipe.yaml"), "--init-from", str(ours), "--trainer.max_steps", "2"]
    return lambda *more, name: fit(*start, *more, name=name, given=without_tokenizer(arguments))


@pytest.fixture(scope="module")
def run(begin: Run) -> Path:
    return begin(name="continued")


def test_a_run_that_begins_with_it_is_trained_with_its_tokenizer(imported: Make, run: Path) -> None:
    folder, _ = imported("gpt2")
    metadata = read_metadata(run / "checkpoints" / "last.ckpt")
    assert metadata["tokenizer"]["kind"] == "file"
    assert metadata["tokenizer"]["library"] == (folder / "tokenizer.json").read_text()
    assert metadata["data"]["vocab_size"] == 320
    assert metadata["evaluation"]["val/bits_per_byte"] > 0
    assert json.loads((run / "init.json").read_text())["tokens"] == ""


def test_the_run_goes_on_and_generates_without_the_folder(
    imported: Make, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockformer.data.tokenizers.file.File.read", lambda self: pytest.fail("read the folder"))
    last = str(run / "checkpoints" / "last.ckpt")
    assert main(["validate", "--ckpt_path", last, *QUIET[:2]]) == 0
    assert main(["generate", last, "--prompt", "The cat", "--greedy", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("The cat")


def test_another_tokenizer_is_refused_for_its_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = str(run / "checkpoints" / "last.ckpt")
    for given in (["--data.tokenizer", "bytes"], ["--data.tokenizer_path", "other"], ["--data.pad_token", "!"]):
        capsys.readouterr()
        assert main(["validate", "--ckpt_path", last, *given]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{given[0][2:]} {given[1]}: {last} has its own tokenizer (file, 320 ids)" in line
        assert f"leave {given[0][2:]} out" in line


def test_a_tokenizer_that_is_chosen_wins(begin: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin("--data.tokenizer", "bytes", name="chosen")
    assert read_metadata(run / "checkpoints" / "last.ckpt")["tokenizer"]["kind"] == "bytes"
    assert "its tokenizer differs: 259 of 260 tokens are in both" in capsys.readouterr().out


def test_more_token_ids_than_the_recipe_has_are_refused_with_both_numbers(
    imported: Make, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, ours = imported("gpt2")
    given = [*without_tokenizer(arguments), "--recipe", "tiny_decoder", "--recipe.vocab_size", "300"]
    assert main(["fit", *given, "--init-from", str(ours), "--run.root", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "the tokenizer has 320 token ids and the recipe's vocab_size is 300: set --recipe.vocab_size 320" in line


@pytest.mark.slow
def test_an_export_has_the_tokenizer_again(imported: Make, run: Path, tmp_path: Path) -> None:
    folder, _ = imported("gpt2")
    assert main(["export", str(run), "--to", "hf", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (theirs.eos_token, theirs.bos_token, theirs.pad_token) == ("<|endoftext|>",) * 3


def test_a_folder_without_a_tokenizer_says_so(
    imported: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = imported("gpt2")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((folder / name).read_bytes())
    assert main(["import", str(bare), "--out", str(tmp_path / "out")]) == 0
    assert main(["generate", str(tmp_path / "out"), "--prompt", "x"]) == 2
    assert "has no tokenizer.json, which text needs" in capsys.readouterr().err
