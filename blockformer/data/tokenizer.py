"""Text to token ids and back: UTF-8 bytes, or byte-pair encoding (BPE) of them learned from the training text.

Both know any text, and both give it back exactly. Every token stands for some bytes, its *piece*; ids 0 to 3 are
special tokens that stand for none and that no text can spell. Decoding joins pieces, so it is the same for both kinds.
"""

import codecs
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from blockformer.errors import DataError

PAD, BOS, EOS, MASK = range(4)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<mask>")
_FIRST = len(SPECIAL)
LEAST = _FIRST + 256
"""The smallest vocabulary that can spell any text."""


class Tokenizer:
    """What both kinds share: the special tokens, pieces and decoding.

    Args:
        pieces: The bytes that token ids 4, 5, ... stand for.
    """

    kind: ClassVar[str]
    pad, bos, eos, mask = PAD, BOS, EOS, MASK

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces: tuple[bytes, ...] = (b"",) * _FIRST + tuple(pieces)

    @property
    def vocab_size(self) -> int:
        """How many token ids there are, special ones included."""
        return len(self.pieces)

    @cached_property
    def byte_lengths(self) -> NDArray[np.int64]:
        """(V,) the bytes that each token stands for; 0 for special tokens."""
        return np.array([len(piece) for piece in self.pieces], dtype=np.int64)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.encode_many([text])[0].tolist()

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Token ids of each text, without special tokens."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for; bytes that are no UTF-8 become U+FFFD, special tokens become nothing."""
        return b"".join(self.pieces[int(i)] for i in ids).decode("utf-8", errors="replace")

    def stream(self) -> "Stream":
        """A decoder for tokens that arrive one at a time."""
        return Stream(self)

    def name(self, token: int) -> str:
        """A readable form of one token, for tables and logs."""
        return SPECIAL[token] if token < _FIRST else self.pieces[token].decode("utf-8", errors="backslashreplace")

    def dump(self) -> dict[str, Any]:
        """A mapping of JSON values that `load` makes this tokenizer from again."""
        return {"format": "blockformer tokenizer 1", "kind": self.kind}


class Stream:
    """Decodes tokens one at a time and holds back the start of a character until its last byte is there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = tokenizer.pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The characters that this token completes, perhaps none."""
        return self._decoder.decode(self._pieces[int(token)])

    def end(self) -> str:
        """What was held back and never completed, as U+FFFD."""
        return self._decoder.decode(b"", final=True)


class ByteTokenizer(Tokenizer):
    """One token for each byte of UTF-8: 256 and the special ones."""

    kind = "bytes"

    def __init__(self) -> None:
        super().__init__([bytes([value]) for value in range(256)])

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Token ids of each text: byte values, past the special ids."""
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16) + _FIRST for text in texts]


class BPETokenizer(Tokenizer):
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; on bytes as in Radford et al. 2019).

    Args:
        library: A trained byte-level BPE of the `tokenizers` package, without special tokens of its own.
    """

    kind = "bpe"

    def __init__(self, library: Library) -> None:
        self._library = library
        values = {character: value for value, character in byte_characters().items()}
        spelled = sorted(library.get_vocab().items(), key=lambda item: item[1])
        super().__init__([bytes(values[character] for character in token) for token, _ in spelled])

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn merges from texts.

        Args:
            texts: The training texts, and no others.
            vocab_size: Ids to have in the end, special ones and the 256 bytes included; a short text may yield fewer.

        Raises:
            DataError: `vocab_size` is less than the special tokens and the bytes need.
        """
        if vocab_size < LEAST:
            raise DataError(f"vocab_size {vocab_size} is too small for bpe: special tokens and bytes alone are {LEAST}")
        library = Library(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size - _FIRST, initial_alphabet=alphabet, show_progress=False)
        library.train_from_iterator(texts, trainer)
        return cls(library)

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Token ids of each text, past the special ids."""
        return [np.array(code.ids, dtype=np.uint32) + _FIRST for code in self._library.encode_batch_fast(list(texts))]

    def dump(self) -> dict[str, Any]:
        """The kind and the library's own form of the merges."""
        return {**super().dump(), "bpe": json.loads(self._library.to_str())}


def train(kind: str, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Make a tokenizer for these training texts: "bytes" needs no training, "bpe" learns `vocab_size` ids."""
    return ByteTokenizer() if kind == "bytes" else BPETokenizer.train(texts, vocab_size)


def load(dumped: dict[str, Any]) -> Tokenizer:
    """Make a tokenizer from what `dump` gave.

    Raises:
        DataError: It is not a tokenizer of this project.
    """
    if not isinstance(dumped, dict) or dumped.get("format") != "blockformer tokenizer 1":
        raise DataError("not a tokenizer that blockformer wrote")
    return ByteTokenizer() if dumped["kind"] == "bytes" else BPETokenizer(Library.from_str(json.dumps(dumped["bpe"])))


def byte_characters() -> dict[int, str]:
    """The printable character that byte-level BPE spells each byte with: itself, or the next one past 255."""
    own = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [value for value in range(256) if value not in own]
    return {value: chr(value) for value in own} | {value: chr(256 + n) for n, value in enumerate(others)}
