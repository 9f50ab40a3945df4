"""A checkpoint is scored and continued with its own tokenizer."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from tests.conftest import WORDS

OTHER = ["--data.tokenizer bytes", "--data.vocab_size 333", "--config {config}"]


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for name, words in {"a": WORDS, "b": [word[::-1] for word in WORDS], "v": WORDS[::2]}.items():
        (folder / f"{name}.txt").write_text(".\n\n".join(" ".join(words[i % 7 :] + words[: i % 5]) for i in range(60)))
    (folder / "bytes.yaml").write_text("data: {tokenizer: bytes}\n")
    return folder


@pytest.fixture(scope="module")
def run(texts: Path, fit: Callable[..., Path], arguments: list[str]) -> Path:
    place, share = arguments.index("--data.tokenizer"), arguments.index("--data.validation")
    given = [
        *arguments[: place - 3],
        *arguments[place + 2 : share],
        *arguments[share + 2 :],
        "--data.dataset",
        "text",
        "--data.tokenizer",
        "bpe",
    ]
    files = ["--data.files", str(texts / "a.txt"), "--data.validation_files", str(texts / "v.txt")]
    size = ["--recipe.vocab_size", "300", "--trainer.max_steps", "4"]
    return fit(*files, *size, name="own-tokenizer", given=given)


@pytest.mark.slow
def test_one_text_has_one_score_however_it_is_given(
    run: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    a, b, v = (str(texts / f"{name}.txt") for name in "abv")
    (tmp_path / "settings.yaml").write_text("trainer: {log_every_n_steps: 2}\n")
    spellings = [
        [],
        ["--data.files", b, "--data.validation_files", v],
        ["--data.files", b],
        ["--data.seed", "5", "--data.files", a],
        ["--config", str(tmp_path / "settings.yaml"), "--data.files", b],
    ]
    for more in spellings:
        assert main(["validate", "--ckpt_path", checkpoint, *more]) == 0
    found = re.findall(r"bits/byte (\S+)", capsys.readouterr().out)
    assert len(found) == len(spellings)
    assert len(set(found)) == 1


@pytest.mark.slow
def test_a_run_goes_on_with_its_tokenizer_on_other_text(run: Path, texts: Path) -> None:
    before = read_metadata(run / "checkpoints" / "last.ckpt")["tokenizer"]
    root, quiet = str(run.parent), ["--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"]
    more = ["--run.name", "own-tokenizer-2", "--data.files", str(texts / "b.txt"), "--trainer.max_steps", "5"]
    last = str(run / "checkpoints" / "last.ckpt")
    allowed = ["--run.other_data", "true"]
    assert main(["fit", "--ckpt_path", last, "--run.root", root, *more, *quiet, *allowed]) == 0
    assert read_metadata(run.parent / "own-tokenizer-2" / "checkpoints" / "last.ckpt")["tokenizer"] == before


@pytest.mark.parametrize("verb", ["validate", "fit"])
@pytest.mark.parametrize("other", OTHER)
def test_another_tokenizer_is_refused_by_name(
    verb: str, other: str, run: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = str(run / "checkpoints" / "last.ckpt")
    assert main([verb, "--ckpt_path", last, *other.format(config=texts / "bytes.yaml").split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{last} has its own tokenizer (bpe, " in line
    assert "--init-from" in line
