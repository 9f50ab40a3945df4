"""SentencePiece models: the same ids as SentencePiece's own library."""

import io
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from blockformer.data.tokenizers.file import File, FileTokenizer
from blockformer.data.tokenizers.stored import from_dump
from blockformer.errors import DataError
from tests.data.published import TEXTS

PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
KINDS: dict[str, dict[str, Any]] = {
    "unigram": {"model_type": "unigram", "vocab_size": 130},
    "bpe": {"model_type": "bpe", "vocab_size": 130},
    "unigram of bytes": {"model_type": "unigram", "vocab_size": 380, **PLAIN},
    "bpe of bytes": {"model_type": "bpe", "vocab_size": 380, "split_digits": True, **PLAIN},
    "bpe without a space": {"model_type": "bpe", "vocab_size": 380, "add_dummy_prefix": False, **PLAIN},
    "t5": {"model_type": "unigram", "vocab_size": 130, "bos_id": -1, "pad_id": 0, "eos_id": 1, "unk_id": 2},
}
each = pytest.mark.parametrize("kind", KINDS)
ALPHABETS = (
    "abcdefghij klmn  opqrstuvwxyz,.!?'",
    "ÄÖÜäöüßé日本語のテキスト🙂👩‍👧 ",
    "".join(map(chr, range(32, 0x300))),
)


def trained(path: Path, **settings: Any) -> Path:
    """A model that SentencePiece has learned."""
    library = pytest.importorskip("sentencepiece")
    model, texts = io.BytesIO(), [line for text in TEXTS for line in text.splitlines()]
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, minloglevel=2, hard_vocab_limit=False, **settings
    )
    path.write_bytes(model.getvalue())
    return path


@each
def test_ids_are_those_of_sentencepiece(kind: str, tmp_path: Path) -> None:
    path = trained(tmp_path / "x.model", **KINDS[kind])
    theirs = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(path))
    made, draw = File(tokenizer_path=str(path)).read(), random.Random(0)
    for number in range(300):
        text = "".join(draw.choice(ALPHABETS[number % 3]) for _ in range(30))
        assert made.encode(text) == theirs.encode(text), text
    for text in ("<s> a </s>", "<unk>", *TEXTS[:3]):
        assert made.encode(text) == theirs.encode(text), text
    assert (made.eos, made.bos) == (theirs.eos_id(), theirs.bos_id() if kind != "t5" else theirs.eos_id())
    assert made.around("encoder_decoder") == (() if kind == "t5" else (made.bos,), (made.eos,))


@each
def test_a_stored_one_needs_no_sentencepiece(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = File(tokenizer_path=str(trained(tmp_path / "x.model", **KINDS[kind]))).read()
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    again = from_dump(made.dump())
    assert isinstance(again, FileTokenizer)
    assert [again.encode(text) for text in TEXTS] == [made.encode(text) for text in TEXTS]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "bytes" in kind or "space" in kind])
def test_text_is_given_back_and_its_bytes_are_known_without_a_space_before_it(kind: str, tmp_path: Path) -> None:
    made = File(tokenizer_path=str(trained(tmp_path / "x.model", **KINDS[kind]))).read()
    for text in (*TEXTS, "  two  spaces\n", "🙂 ß"):
        ids = made.encode(text)
        assert made.decode(ids) == text
        more = 0 if "space" in kind else 1
        assert made.byte_lengths is not None
        assert made.byte_lengths[ids].sum() == len(text.encode()) + more


def test_where_it_is_not_installed_the_error_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.model").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DataError, match=r"x\.model: .* pip install 'blockformer\[sentencepiece\]'"):
        File(tokenizer_path=str(tmp_path / "x.model")).read()


@pytest.mark.parametrize("content", [b"", b"x", b"\x0a\x05abc", bytes(100)])
def test_what_is_no_model_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    (tmp_path / "x.model").write_bytes(content)
    with pytest.raises(DataError) as caught:
        File(tokenizer_path=str(tmp_path / "x.model")).read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "char", "vocab_size": 60}, "is no model of type unigram or bpe"),
        (
            {"model_type": "bpe", "vocab_size": 130, "user_defined_symbols": ["x" * 1001]},
            "has a piece of more than 1,000 characters",
        ),
        ({"model_type": "bpe", "vocab_size": 130, "treat_whitespace_as_suffix": True}, "writes spaces after words"),
        (
            {"model_type": "bpe", "vocab_size": 130, "user_defined_symbols": ["<x>"]},
            "cannot be converted: 'a <x> b<x>'",
        ),
    ],
)
def test_a_model_that_would_encode_differently_is_refused(settings: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        File(tokenizer_path=str(trained(tmp_path / "x.model", **settings))).read()
