"""Words found in tokens are those that the `tokenizers` library and transformers find in texts."""

import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.bpe import BPE
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.data.tokenizers.file import FileTokenizer
from blockformer.data.tokenizers.unigram import Unigram
from blockformer.data.tokenizers.wordpiece import WordPiece
from blockformer.data.words import Words

TEXT = "Hello there, wörld of don't and 日本語 😀 x1y2 (really): hello again, worldly things; hello hellos thereof."
SPACED = "hello there world of worldly things hello again thereof hellos"


def _texts() -> list[str]:
    return [TEXT, SPACED] * 5


def _file(model: models.Model, trainer: trainers.Trainer, steps: dict[str, object]) -> FileTokenizer:
    library = Library(model)
    for name, step in steps.items():
        setattr(library, name, step)
    library.train_from_iterator(_texts(), trainer)
    return FileTokenizer(library.to_str())


SPECIAL = ["<unk>", "<s>", "</s>"]
SPACES = {"normalizer": normalizers.Lowercase(), "decoder": decoders.Metaspace()}
LEARNED: dict[str, Tokenizer] = {
    "bpe": BPE(vocab_size=300).learn(_texts),
    "unigram": Unigram(vocab_size=300).learn(_texts),
    "wordpiece": WordPiece(vocab_size=300).learn(lambda: [" ".join(TEXT)] * 5),
    "file, sentencepiece, lower case": _file(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
        {**SPACES, "pre_tokenizer": pre_tokenizers.Metaspace()},
    ),
    "file, ends of words": _file(
        models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
        trainers.BpeTrainer(vocab_size=90, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False),
        {"pre_tokenizer": pre_tokenizers.Whitespace(), "decoder": decoders.BPEDecoder()},
    ),
}


def _divisions(numbers: list[int]) -> list[bool]:
    """Whether a token is of another word than the one before it."""
    assert (np.diff(numbers) >= 0).all()
    return (np.diff(numbers) > 0).tolist()


@pytest.mark.parametrize("tokenizer", LEARNED.values(), ids=LEARNED.keys())
def test_words_are_those_that_the_library_finds_in_the_text(tokenizer: Tokenizer) -> None:
    code = tokenizer.library().encode(TEXT, add_special_tokens=False)
    assert len(code.ids) > len(set(code.word_ids)) > 10, "some words have several tokens"
    ids = np.array(code.ids)
    assert _divisions(Words(tokenizer).numbers(ids).tolist()) == _divisions(code.word_ids)
    for cut in (slice(3, None), slice(None, -4), slice(7, 9)):
        numbers = Words(tokenizer).numbers(ids[cut]).tolist()
        assert _divisions(numbers) == _divisions(code.word_ids[cut]), "a row may begin or end inside of a word"


def test_bytes_are_divided_before_white_space() -> None:
    tokenizer = ByteTokenizer()
    ids = np.array(tokenizer.encode("one two,  日本\nx"))
    numbers = Words(tokenizer).numbers(ids)
    words = [tokenizer.decode(ids[numbers == number]) for number in np.unique(numbers)]
    assert words == ["one", " two,", "  日本", "\nx"]


def test_a_special_token_divides_words() -> None:
    tokenizer = LEARNED["bpe"]
    first, second = tokenizer.encode("hello"), tokenizer.encode("world")
    numbers = Words(tokenizer).numbers(np.array([tokenizer.bos, *first, tokenizer.eos, *second]))
    assert not {*numbers[1 : 1 + len(first)]} & {*numbers[-len(second) :]}
    assert len({*numbers[-len(second) :]}) == 1


def test_words_of_wordpiece_are_those_that_transformers_masks() -> None:
    """Its collator joins tokens without a gap in the text, so punctuation is kept out of the text here."""
    transformers = pytest.importorskip("transformers")
    tokenizer = LEARNED["wordpiece"]
    code = tokenizer.library().encode(SPACED, add_special_tokens=False)
    theirs = transformers.DataCollatorForLanguageModeling._calc_word_ids_and_prob_mask(
        np.array([code.offsets]), np.zeros((1, len(code.ids)), int)
    )[0]
    assert len(set(theirs[0].tolist())) == len(SPACED.split()) < len(code.ids)
    assert _divisions(Words(tokenizer).numbers(np.array(code.ids)).tolist()) == _divisions(theirs[0].tolist())
