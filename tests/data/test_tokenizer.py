import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockformer.data.corpora.corpus import Corpus
from blockformer.data.tokenizer import cut
from blockformer.data.tokenizers.bpe import BPE
from blockformer.data.tokenizers.byte_level import CUTS, SPECIAL, ByteLevelTokenizer
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.data.tokenizers.stored import from_dump
from blockformer.data.tokenizers.unigram import Unigram
from blockformer.data.tokenizers.wordpiece import NAMES, WordPiece
from blockformer.errors import DataError

TEXTS = ["the cat sat on the mat, the cat ate the rat", "Übung macht den Meister: äöü ß", "日本語 and 🙂 emoji"] * 3
TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "bpe": BPE(vocab_size=300).learn(lambda: TEXTS),
    "unigram": Unigram(vocab_size=280).learn(lambda: TEXTS),
}
WORDPIECE = WordPiece(vocab_size=200).learn(lambda: TEXTS)
learned = pytest.mark.parametrize("component", [BPE, Unigram, WordPiece])
each = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())


@each
@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_gives_any_text_back_exactly(tokenizer: ByteLevelTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())


@each
@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_streams_the_same_text_and_only_whole_characters(tokenizer: ByteLevelTokenizer, text: str) -> None:
    stream = tokenizer.stream()
    parts = [stream.feed(token) for token in tokenizer.encode(text)]
    assert "".join(parts) == text
    assert stream.end() == ""


@each
def test_an_unfinished_character_at_the_end_is_held_back_and_then_replaced(tokenizer: ByteLevelTokenizer) -> None:
    first = next(i for i, piece in enumerate(tokenizer.pieces) if piece == "é".encode()[:1])
    stream = tokenizer.stream()
    assert stream.feed(first) == ""
    assert stream.end() == "\ufffd"
    assert tokenizer.decode([first]) == "\ufffd"


@each
def test_no_text_spells_a_special_token(tokenizer: ByteLevelTokenizer) -> None:
    ids = tokenizer.encode(" ".join(SPECIAL))
    assert not set(ids) & {*asdict(tokenizer.special).values()}
    assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.eos, tokenizer.pad]) == " ".join(SPECIAL)


@each
def test_an_id_that_only_the_model_has_stands_for_nothing(tokenizer: ByteLevelTokenizer) -> None:
    beyond, stream = tokenizer.vocab_size + 3, tokenizer.stream()
    assert tokenizer.decode([beyond, *tokenizer.encode("a"), beyond]) == "a"
    assert stream.feed(beyond) + stream.end() == ""
    assert tokenizer.name(beyond) == f"id {beyond}"
    assert WORDPIECE.decode([beyond]) == ""


@each
def test_survives_json(tokenizer: ByteLevelTokenizer) -> None:
    again = from_dump(json.loads(json.dumps(tokenizer.dump())))
    assert again.pieces == tokenizer.pieces
    assert again.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])


@each
def test_many_texts_encode_as_one_by_one(tokenizer: ByteLevelTokenizer) -> None:
    assert [ids.tolist() for ids in tokenizer.encode_many(TEXTS)] == [tokenizer.encode(text) for text in TEXTS]


CLOSE = st.text(
    st.sampled_from(
        "ab sdtmreLV'’,.!?;:。、「漢字かなカナー한글é\u0301ß1²٣Ⅷ \n\t\r\x0b\x0c\x1c\x1f\x85\xa0\u2028\u3000_-<>🙂\0"
    )
)


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(CLOSE, st.text(st.characters(exclude_categories=["Cs"]))), size=st.integers(1, 5))
def test_the_tokens_of_the_pieces_are_those_of_the_whole(text: str, size: int) -> None:
    pieces = list(cut(text, CUTS, size))
    assert "".join(pieces) == text
    library = TOKENIZERS["bpe"]._library
    words = [word for word, _ in library.pre_tokenizer.pre_tokenize_str(text)]
    assert [word for piece in pieces for word, _ in library.pre_tokenizer.pre_tokenize_str(piece)] == words
    for made in (*TOKENIZERS.values(), WORDPIECE):
        library = made._library
        assert [token for piece in pieces for token in library.encode(piece).ids] == library.encode(text).ids


def test_a_long_text_has_the_tokens_and_the_merges_that_it_has_as_a_whole() -> None:
    text = "".join(f"{TEXTS[n % 3]}{' ' * (n % 4)}{n}\n" for n in range(6000))
    tokenizer = TOKENIZERS["bpe"]
    assert tokenizer.encode(text) == tokenizer._library.encode(text).ids
    assert max(map(len, cut(text, CUTS))) < 2**15 + 20
    in_pieces = BPE(vocab_size=400).learn(lambda: [text])
    in_small_pieces = BPE(vocab_size=400).learn(lambda: cut(text, CUTS, 100))
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
    for component in (BPE, Unigram):
        tokenizer = component(vocab_size=1000).learn(lambda: ["ab"])
        assert 260 <= tokenizer.vocab_size < 270
        assert tokenizer.decode(tokenizer.encode("ab ba")) == "ab ba"


@pytest.mark.slow
def test_every_component_learns_the_same_in_another_process() -> None:
    code = (
        "import hashlib, json; from blockformer.data.options import DATA\n"
        "for name in ('bpe', 'unigram', 'wordpiece'):\n"
        f"    made = DATA.make({{'tokenizer': name}}, {{'vocab_size': 320}})['tokenizer'].learn(lambda: {TEXTS!r})\n"
        "    print(hashlib.sha256(json.dumps(made.dump()).encode()).hexdigest())"
    )
    runs = {subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout for _ in range(3)}
    assert len(runs) == 1
    assert len(set(runs.pop().split())) == 3


@learned
def test_a_vocabulary_that_is_too_small_is_refused_with_both_numbers(component: type) -> None:
    with pytest.raises(DataError, match=rf"vocab_size {component.least - 1} .* {component.least}"):
        component(vocab_size=component.least - 1)


@learned
def test_a_tokenizer_has_at_most_the_ids_that_were_asked_for(component: type) -> None:
    rare = ["".join(chr(0x4E00 + number) for number in range(n, n + 40)) for n in range(0, 600, 40)]
    texts = [*rare, "words with cases " * 2500]
    assert component(vocab_size=300).learn(lambda: texts).vocab_size <= 300


def test_unigram_finds_the_most_probable_segmentation() -> None:
    made = Unigram(vocab_size=280).learn(lambda: ["banana bandana " * 50, "ana band nab " * 30])
    scores = dict(json.loads(made._library.to_str())["model"]["vocab"])

    def best(word: str) -> float:
        found = [0.0] + [float("-inf")] * len(word)
        for end in range(1, len(word) + 1):
            found[end] = max(found[start] + scores.get(word[start:end], float("-inf")) for start in range(end))
        return found[-1]

    for word in ("banana", "bandana", "nab", "band", "anaband", "zebra"):
        chosen = [made.names[token] for token in made.encode(word)]
        assert "".join(chosen) == word
        assert sum(scores[piece] for piece in chosen) == pytest.approx(best(word))


def test_wordpiece_takes_the_longest_known_piece_from_the_left() -> None:
    known = set(WORDPIECE.names)

    def greedy(word: str) -> list[str]:
        found, start = list[str](), 0
        while start < len(word):
            begins = "##" if start else ""
            end = next((n for n in range(len(word), start, -1) if begins + word[start:n] in known), None)
            if end is None:
                return ["<unk>"]
            found.append(begins + word[start:end])
            start = end
        return found

    for word in ("the", "cat", "matcat", "ratatat", "Meister", "ä", "zebra", "日本語"):
        words = list(word) if word == "日本語" else [word]
        assert [WORDPIECE.names[token] for token in WORDPIECE.encode(word)] == [p for one in words for p in greedy(one)]
    assert WORDPIECE.decode(WORDPIECE.encode("the cat\n sat, zebra")) == "the cat sat ,"


def test_wordpiece_without_case_reads_all_cases_alike() -> None:
    cased, uncased = WORDPIECE, WordPiece(vocab_size=200, lowercase=True).learn(lambda: TEXTS)
    assert uncased.encode("ÜBUNG Äöü") == uncased.encode("ubung aou")
    assert cased.encode("Übung") != cased.encode("übung")
    assert from_dump(json.loads(json.dumps(uncased.dump()))).encode("ÜBUNG") == uncased.encode("ubung")


def test_wordpiece_has_no_bytes_and_its_special_tokens_are_in_no_text() -> None:
    assert WORDPIECE.byte_lengths is None
    assert [WORDPIECE.names[number] for number in range(5)] == list(NAMES)
    ids = WORDPIECE.encode(" ".join(NAMES))
    assert set(ids) <= {4, *WORDPIECE.ordinary.tolist()}
    assert not WORDPIECE.is_ordinary[:5].any()


def test_the_rarest_characters_are_unknown_to_wordpiece() -> None:
    texts = [*TEXTS, "the cat sat on the mat " * 30]
    counts = Counter("".join(texts).replace(" ", ""))
    small = WordPiece(vocab_size=64).learn(lambda: texts)
    known = {name for name in small.names if len(name) == 1}
    letters = known - set("日本語,:")  # which are words by themselves
    assert known - letters == set("日本語,:")
    assert len(letters) == 16
    assert min(counts[one] for one in letters) >= max(counts[one] for one in counts if one not in known)


def test_a_chinese_text_needs_about_one_id_for_each_character() -> None:
    often = [chr(0x4E00 + rank) * (1500 // rank) for rank in range(1, 1501)]  # as often as words of a language are
    made = WordPiece(vocab_size=1024).learn(lambda: ["".join(often)])
    assert made.vocab_size == 1024 * 7 // 8
    assert set(made.names[len(NAMES) :]) == {one[0] for one in often[: made.vocab_size - len(NAMES)]}
    with pytest.raises(DataError, match="as it keeps 219 characters; 1720 keeps all 1500"):
        WordPiece(vocab_size=256).learn(lambda: ["".join(often)])
    assert WordPiece(vocab_size=1720).learn(lambda: ["".join(often)]).vocab_size == 1505


ENGLISH = ["Sphinx of black quartz, judge my vow; pack my box with 27 dozen liquor jugs (in Oz)."] * 9


@pytest.mark.parametrize("size", [64, 90])
@pytest.mark.parametrize("lowercase", [False, True])
def test_a_vocabulary_that_leaves_many_words_unknown_to_wordpiece_is_refused(size: int, lowercase: bool) -> None:
    with pytest.raises(DataError) as caught:
        WordPiece(vocab_size=size, lowercase=lowercase).learn(lambda: ENGLISH)
    said = str(caught.value)
    assert said.startswith(f"data.vocab_size {size} is too small for wordpiece: ")
    assert "\n" not in said
    enough = int(said.partition(" keeps all")[0].rpartition(" ")[2])
    made = WordPiece(vocab_size=enough, lowercase=lowercase).learn(lambda: ENGLISH)
    assert made.vocab_size <= enough
    assert all(NAMES.index("<unk>") not in made.encode(text) for text in ENGLISH)


def test_a_word_of_more_characters_than_wordpiece_reads_does_not_ask_for_a_larger_vocabulary() -> None:
    made = WordPiece(vocab_size=64).learn(lambda: ["a" * 300, "a b"])
    assert made.encode("a" * 300) == [NAMES.index("<unk>")]


def test_text_is_streamed_as_it_is_decoded_with_the_spaces_between_words() -> None:
    ids = WORDPIECE.encode("the cat sat on the mat , the rat")
    stream = WORDPIECE.stream(ids[:2])
    written = "".join([*map(stream.feed, ids[2:]), stream.end()])
    assert WORDPIECE.decode(ids[:2]) + written == WORDPIECE.decode(ids)


@pytest.mark.parametrize("content", [{}, {"format": "other"}, [], "x"])
def test_what_is_no_tokenizer_is_refused(content: object) -> None:
    with pytest.raises(DataError, match="not a tokenizer"):
        from_dump(content)  # type: ignore[arg-type]


def test_a_long_text_is_learned_from_in_part() -> None:
    documents = [f"document {number} " + "word " * 40 for number in range(2000)]
    corpus = Corpus({"train": documents, "validation": ["held back"], "test": []}, paired=False, facts={})
    chosen = list(corpus.sample("train", corpus.size() // 10))
    assert chosen == list(corpus.sample("train", corpus.size() // 10))
    assert len(chosen) == pytest.approx(200, abs=60)
    assert set(chosen) < set(documents)
    assert list(corpus.sample("train", corpus.size())) == documents
    assert list(corpus.sample("train", 1)) == documents[:1]


def test_what_is_learned_from_a_part_is_another_entry_of_the_cache() -> None:
    assert BPE(vocab_size=300).key != BPE(vocab_size=300, learn_bytes=1000).key
