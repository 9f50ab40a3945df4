"""A tokenizer gives texts back, keeps special tokens out of them, and is the same after it was stored."""

import json

import numpy as np

from blockformer.conformance.block_case import BlockCase, NotApplicable
from blockformer.conformance.components.examples import TEXTS, made, without_parameters
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.base import GivenTokenizer, LearnedTokenizer, TokenizerComponent
from blockformer.data.tokenizers.stored import from_dump
from blockformer.errors import UserError

SAMPLES = (
    *TEXTS[:8],
    "",
    " two  spaces, and a line\nend ",
    "Größe, naïve façade; 東京 🙂",
    "def f(x):\n    return x ** 2\n",
    "<s> <pad> [MASK] </s> <|endoftext|>",
)


def check_gives_a_text_back(case: BlockCase) -> None:
    """Where the pieces of tokens are the text (`exact`), it is decoded as it was; else its tokens stay the same."""
    tokenizer = _tokenizer(case)
    for text in SAMPLES:
        found = tokenizer.decode(ids := tokenizer.encode(text))
        if tokenizer.exact:
            assert found == text, f"{text!r} becomes {found!r}"
        else:
            again = tokenizer.decode(tokenizer.encode(found))
            assert again == found, f"{text!r} becomes {found!r}, and that {again!r}"
        assert not tokenizer.exact or _bytes(tokenizer, ids) == text.encode(), (
            f"the pieces of {text!r} are not its bytes"
        )


def check_no_text_gives_a_special_token(case: BlockCase) -> None:
    """The special tokens are ids of the vocabulary that stand for no text; a text with their names may be refused."""
    tokenizer = _tokenizer(case)
    special = {one for one in vars(tokenizer.special).values() if one is not None}
    assert special <= {*range(tokenizer.vocab_size)}, (
        f"the special tokens {special} are not below {tokenizer.vocab_size}"
    )
    assert not tokenizer.is_ordinary[[*special]].any(), "a special token counts as one that stands for text"
    for text in (*SAMPLES, *(tokenizer.names[one] for one in special)):
        try:
            ids = tokenizer.encode(text)
        except UserError:  # it refuses a text with the name of a special token
            continue
        assert not special & {*ids}, f"{text!r} is encoded with a special token"
        assert all(0 <= one < tokenizer.vocab_size for one in ids), f"{text!r} is encoded with an unknown id"


def check_is_the_same_after_it_was_stored(case: BlockCase) -> None:
    """A checkpoint stores it as JSON; what is read again gives the same ids, texts and special tokens."""
    tokenizer = _tokenizer(case)
    again = from_dump(json.loads(json.dumps(tokenizer.dump())))
    assert again.dump() == tokenizer.dump(), "what is stored again is something else"
    assert again.special == tokenizer.special, f"its special tokens are {again.special}, not {tokenizer.special}"
    for text in SAMPLES:
        assert again.encode(text) == (ids := tokenizer.encode(text)), f"{text!r} gets other ids"
        assert again.decode(ids) == tokenizer.decode(ids), f"{text!r} is decoded otherwise"


def check_learns_the_same_again(case: BlockCase) -> None:
    """From the same texts it learns the same, with at most as many ids as were asked for."""
    component = made(case, TokenizerComponent)
    if not isinstance(component, LearnedTokenizer):
        raise NotApplicable("the tokenizer is not learned")
    first, again = _tokenizer(case), _tokenizer(case)
    assert first.dump() == again.dump(), "it learns something else from the same texts"
    most = component.vocab_size
    assert first.vocab_size <= most, f"it has {first.vocab_size} ids, and {most} were asked for"
    assert json.loads(json.dumps(component.key)) == component.key, "key is not JSON"


def check_many_texts_are_encoded_as_one(case: BlockCase) -> None:
    """The ids of a text do not depend on the texts that are encoded with it."""
    tokenizer = _tokenizer(case)
    for text, ids in zip(SAMPLES, tokenizer.encode_many(SAMPLES), strict=True):
        assert ids.tolist() == tokenizer.encode(text), f"{text!r} gets other ids among others"


def check_streams_what_it_decodes(case: BlockCase) -> None:
    """Decoded token by token, as `generate` does, a text is what it is as a whole."""
    tokenizer = _tokenizer(case)
    for text in SAMPLES:
        ids, stream = tokenizer.encode(text), tokenizer.stream()
        streamed = "".join([*map(stream.feed, ids), stream.end()])
        assert streamed == tokenizer.decode(ids), f"{text!r} is streamed as {streamed!r}"


def _tokenizer(case: BlockCase) -> Tokenizer:
    component = made(case, TokenizerComponent)
    if isinstance(component, LearnedTokenizer):
        return component.learn(lambda: [*TEXTS, *SAMPLES] * 4)
    assert isinstance(component, GivenTokenizer), "a tokenizer is either a LearnedTokenizer or a GivenTokenizer"
    with without_parameters(case):
        return component.read()


def _bytes(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    assert tokenizer.pieces is not None
    lengths = tokenizer.byte_lengths
    found = b"".join(tokenizer.pieces[one] for one in ids)
    assert lengths is not None, "an exact tokenizer has byte_lengths"
    assert int(lengths[np.array(ids, np.int64)].sum()) == len(found), "byte_lengths are wrong"
    return found
