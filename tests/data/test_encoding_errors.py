"""An error while a corpus is encoded leaves no file open, and nothing in the cache."""

import gc
import warnings
from pathlib import Path
from typing import Any

import pytest

from blockformer.data import cache
from blockformer.data.corpora.corpus import Chat, Corpus, Labelled
from blockformer.data.encoding import encode
from blockformer.data.module import TextData
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import DataError
from blockformer.training.objectives import CausalLM
from tests.data.chats import SYSTEM, write_chats

QUESTION = {"role": "user", "content": "2 + 2?"}
KINDS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "documents": ({}, "text", "train"),
    "pairs": ({"paired": True}, ("one", "two"), "train.target"),
    "labelled": ({"labelled": 1}, Labelled(("text",), 1.0), "validation.text0"),
    "chats": ({"chats": True}, Chat([QUESTION, QUESTION], "c.jsonl:1"), "test.answers"),
}


class Refusing(ByteTokenizer):
    """Encodes nothing."""

    def encode_many(self, texts: Any) -> Any:
        raise DataError("cannot encode a text")


def leaves_nothing_open(error: type[Exception], kind: str, folder: Path) -> None:
    settings, document, _ = KINDS[kind]
    tokenizer = Refusing()
    tokenizer.use_template(SYSTEM, "own.jinja")
    splits = {"train": [document], "validation": [], "test": []}
    corpus = Corpus(splits, **({"paired": False, "facts": {}} | settings))
    gc.collect()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(error):
            encode(corpus, tokenizer, folder, None)
        gc.collect()
    assert [str(one.message) for one in seen] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_document_that_cannot_be_encoded_leaves_no_file_open(kind: str, tmp_path: Path) -> None:
    leaves_nothing_open(DataError, kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_written_leaves_no_other_one_open(kind: str, tmp_path: Path) -> None:
    for name in ("offsets.int64", "tokens.00000.uint16"):
        (tmp_path / f"{KINDS[kind][2]}.{name}").mkdir()
        leaves_nothing_open(IsADirectoryError, kind, tmp_path)


def test_an_error_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "cache"))
    (template := tmp_path / "own.jinja").write_text(SYSTEM, encoding="utf-8")
    files = write_chats(tmp_path / "c.jsonl", [[QUESTION, QUESTION]])
    given = {"chat_template": str(template), "files": str(files), "objective": CausalLM(), "validation": 0.0}
    with pytest.raises(DataError, match="Roles must alternate"):
        TextData("chat", tokenizer="bytes", length=8, batch_size=1, test=0.0, **given).facts()
    assert [*cache.root().iterdir()] == []
