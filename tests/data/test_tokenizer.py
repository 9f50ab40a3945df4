import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockformer.data.tokenizer import SPECIAL, BPETokenizer, ByteTokenizer, Tokenizer, cut, from_dump
from blockformer.errors import DataError

TEXTS = ["the cat sat on the mat, the cat ate the rat", "Übung macht den Meister: äöü ß", "日本語 and 🙂 emoji"] * 3
TOKENIZERS = {"bytes": ByteTokenizer(), "bpe": BPETokenizer.train(TEXTS, 300)}
each = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())


@each
@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_gives_any_text_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())


@each
@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_streams_the_same_text_and_only_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.stream()
    parts = [stream.feed(token) for token in tokenizer.encode(text)]
    assert "".join(parts) == text
    assert stream.end() == ""


@each
def test_an_unfinished_character_at_the_end_is_held_back_and_then_replaced(tokenizer: Tokenizer) -> None:
    first = next(i for i, piece in enumerate(tokenizer.pieces) if piece == "é".encode()[:1])
    stream = tokenizer.stream()
    assert stream.feed(first) == ""
    assert stream.end() == "\ufffd"
    assert tokenizer.decode([first]) == "\ufffd"


@each
def test_no_text_spells_a_special_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" ".join(SPECIAL))
    assert not set(ids) & set(tokenizer.special.values())
    assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.eos, tokenizer.pad]) == " ".join(SPECIAL)


@each
def test_survives_json(tokenizer: Tokenizer) -> None:
    again = from_dump(json.loads(json.dumps(tokenizer.dump())))
    assert again.pieces == tokenizer.pieces
    assert again.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])


@each
def test_many_texts_encode_as_one_by_one(tokenizer: Tokenizer) -> None:
    assert [ids.tolist() for ids in tokenizer.encode_many(TEXTS)] == [tokenizer.encode(text) for text in TEXTS]


CLOSE = st.text(
    st.sampled_from(
        "ab sdtmreLV'’,.!?;:。、「漢字かなカナー한글é\u0301ß1²٣Ⅷ \n\t\r\x0b\x0c\x1c\x1f\x85\xa0\u2028\u3000_-<>🙂\0"
    )
)


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(CLOSE, st.text(st.characters(exclude_categories=["Cs"]))), size=st.integers(1, 5))
def test_the_tokens_of_the_pieces_are_those_of_the_whole(text: str, size: int) -> None:
    pieces = list(cut(text, size))
    assert "".join(pieces) == text
    library = TOKENIZERS["bpe"]._library
    words = [word for word, _ in library.pre_tokenizer.pre_tokenize_str(text)]
    assert [word for piece in pieces for word, _ in library.pre_tokenizer.pre_tokenize_str(piece)] == words
    assert [token for piece in pieces for token in library.encode(piece).ids] == library.encode(text).ids


def test_a_long_text_has_the_tokens_and_the_merges_that_it_has_as_a_whole() -> None:
    text = "".join(f"{TEXTS[n % 3]}{' ' * (n % 4)}{n}\n" for n in range(6000))
    tokenizer = TOKENIZERS["bpe"]
    assert tokenizer.encode(text) == tokenizer._library.encode(text).ids
    assert max(map(len, cut(text))) < 2**15 + 20
    in_pieces = BPETokenizer.train([text], 400)
    in_small_pieces = BPETokenizer.train(list(cut(text, 100)), 400)
    assert in_pieces.dump() == in_small_pieces.dump()


def test_the_library_encodes_bounded_batches_whatever_the_lengths_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    encode = ByteTokenizer._encode
    monkeypatch.setattr(
        ByteTokenizer, "_encode", lambda self, texts: sizes.append(sum(map(len, texts))) or encode(self, texts)
    )
    for texts in (["word " * 400_000], ["word " * 10] * 40_000):
        sizes.clear()
        assert sum(map(len, ByteTokenizer().encode_many(texts))) == sum(map(len, texts))
        assert len(sizes) > 3
        assert max(sizes) < 600_000


def test_bpe_learns_frequent_words_and_has_the_size_that_was_asked_for() -> None:
    tokenizer = TOKENIZERS["bpe"]
    assert tokenizer.vocab_size == 300
    assert len(tokenizer.encode("the cat")) < len("the cat") // 2
    assert set(range(256)) <= {piece[0] for piece in tokenizer.pieces if len(piece) == 1}


def test_a_short_text_yields_a_smaller_bpe() -> None:
    tokenizer = BPETokenizer.train(["ab"], 1000)
    assert 260 < tokenizer.vocab_size < 270
    assert tokenizer.decode(tokenizer.encode("ab ba")) == "ab ba"


def test_bpe_learns_the_same_in_another_process() -> None:
    code = (
        "import hashlib, json; from blockformer.data.tokenizer import BPETokenizer;"
        f"t = BPETokenizer.train({TEXTS!r}, 300); print(hashlib.sha256(json.dumps(t.dump()).encode()).hexdigest())"
    )
    runs = {subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout for _ in range(2)}
    assert len(runs) == 1


def test_a_vocabulary_too_small_for_bytes_is_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"vocab_size 259 .* 260"):
        BPETokenizer.train(TEXTS, 259)


@pytest.mark.parametrize("content", [{}, {"format": "other"}, [], "x"])
def test_what_is_no_tokenizer_is_refused(content: object) -> None:
    with pytest.raises(DataError, match="not a tokenizer"):
        from_dump(content)  # type: ignore[arg-type]
