"""The words of a text, found in its tokens."""

import codecs
import json
import re

import numpy as np
from numpy.typing import NDArray

from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.data.tokenizers.tokenizer_json import written_pieces

_LETTERS = "blockformer.letters"
_BEFORE_SPACE = re.compile(r"(?<=\S)(?=\s)")


def _as_letters(error: UnicodeError) -> tuple[str, int]:
    """A letter for each byte of a character that is not complete."""
    assert isinstance(error, UnicodeDecodeError)
    return "a" * (error.end - error.start), error.end


codecs.register_error(_LETTERS, _as_letters)


class Words:
    """Which tokens of a row make up a word.

    Words are what the tokenizer divides a text into before it looks for tokens (its pre-tokenizer): those of
    SentencePiece begin with white space, those of GPT-2 also where letters, digits and punctuation meet. Where the
    tokenizer marks the tokens inside of a word (`##`), the others begin one. With a tokenizer of bytes, or without such
    a step, a word begins with white space.

    Args:
        tokenizer: The tokenizer of the rows.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        library = tokenizer.library()
        content = json.loads(library.to_str())
        prefix, suffix = (content["model"].get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix"))
        self._begins = np.array([not name.startswith(prefix) for name in tokenizer.names]) if prefix else None
        self._split = None if isinstance(tokenizer, ByteTokenizer) else library.pre_tokenizer
        pieces = tokenizer.pieces or written_pieces(content, library)
        if suffix:
            ending = suffix.encode()
            pieces = [one.removesuffix(ending) + b" " if one.endswith(ending) else one for one in pieces]
        self._pieces = [piece or b" " for piece in pieces]  # a special token divides words
        self._sizes = np.array([len(piece) for piece in self._pieces])

    def numbers(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """(T,) the number of each token's word, ascending, in a row that may begin or end inside of a word."""
        if self._begins is not None:
            return np.cumsum(self._begins[tokens])
        sizes = self._sizes[tokens]
        text = b"".join([self._pieces[token] for token in tokens]).decode("utf-8", errors=_LETTERS)
        if self._split is None:
            bounds = [found.start() for found in _BEFORE_SPACE.finditer(text)]
        else:
            bounds = sorted({place for _, span in self._split.pre_tokenize_str(text) for place in span})
        code = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        ends = np.cumsum(1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF))  # of each character, in bytes
        first = np.concatenate(([0], ends))[bounds]
        return np.searchsorted(first, np.cumsum(sizes) - sizes, side="right")
