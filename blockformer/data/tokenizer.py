"""Tokenizers: UTF-8 bytes, or byte-pair encoding (BPE) of them learned from the training text.

Both encode any text without unknown tokens and decode it exactly. Each token stands for some bytes, its *piece*;
special tokens have an empty piece, and encoding a text never yields them. Decoding joins pieces, the same for both.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from blockformer.errors import DataError

SPECIAL = ("<pad>", "<bos>", "<eos>", "<mask>")
LEAST = len(SPECIAL) + 256
"""The smallest vocabulary that can encode any text: special tokens and bytes."""
_FORMAT = "blockformer tokenizer 2"
_BATCH = 2**19
"""Characters that the library encodes at once; it takes about 120 bytes of memory for each."""


class Tokenizer:
    """Special tokens, pieces and decoding, which both kinds share.

    Args:
        library: a byte-level BPE of the `tokenizers` package with the special tokens `SPECIAL`.
    """

    kind: ClassVar[str]

    def __init__(self, library: Library) -> None:
        library.encode_special_tokens = True  # "<eos>" in a text is five characters; not stored in the library's JSON
        self._library = library
        vocabulary = library.get_vocab()
        self._names = sorted(vocabulary, key=lambda name: vocabulary[name])
        self.special = {name: vocabulary[name] for name in SPECIAL}
        self.pad, self.bos, self.eos, self.mask = self.special.values()
        value_of = {character: value for value, character in byte_characters().items()}
        self.pieces = tuple(b"" if n in SPECIAL else bytes(value_of[one] for one in n) for n in self._names)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        return len(self.pieces)

    @cached_property
    def byte_lengths(self) -> NDArray[np.int64]:
        """(V,) number of bytes of each token; 0 for special tokens."""
        return np.array([len(piece) for piece in self.pieces], dtype=np.int64)

    @cached_property
    def ordinary(self) -> NDArray[np.int64]:
        """Ids of all tokens that are not special, ascending."""
        return np.flatnonzero(self.byte_lengths)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.encode_many([text])[0].tolist()

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Token ids of each text, without special tokens."""
        parts: list[list[NDArray[Any]]] = [[] for _ in texts]
        for batch in self._batches(texts):
            for (number, _), ids in zip(batch, self._encode([piece for _, piece in batch]), strict=True):
                parts[number].append(ids)
        return [np.concatenate(part) if part else np.zeros(0, np.uint32) for part in parts]

    def _batches(self, texts: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
        """Pieces of the texts, with the index of the text, in batches of bounded size."""
        batch: list[tuple[int, str]] = []
        size = 0
        for number, text in enumerate(texts):
            for piece in cut(text):
                batch.append((number, piece))
                size += len(piece)
                if size >= _BATCH:
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch

    def _encode(self, texts: list[str]) -> Iterable[NDArray[Any]]:
        """Token ids of each text of a batch."""
        return (np.array(code.ids, dtype=np.uint32) for code in self._library.encode_batch_fast(texts))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; invalid UTF-8 becomes U+FFFD, special tokens are dropped."""
        return b"".join(self.pieces[int(i)] for i in ids).decode("utf-8", errors="replace")

    def stream(self) -> "Stream":
        """A decoder for tokens that arrive one at a time."""
        return Stream(self)

    def name(self, token: int) -> str:
        """A readable form of one token, for tables and logs."""
        return self.pieces[token].decode("utf-8", errors="backslashreplace") or self._names[token]

    def library(self) -> Library:
        """A copy of the tokenizer of the `tokenizers` package, which finds special tokens in texts."""
        return Library.from_str(self._library.to_str())

    def dump(self) -> dict[str, Any]:
        """JSON values from which `from_dump` makes this tokenizer."""
        return {"format": _FORMAT, "kind": self.kind, "library": json.loads(self._library.to_str())}


class Stream:
    """Decodes tokens one at a time and holds back the bytes of an incomplete character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = tokenizer.pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The characters that this token completes, perhaps none."""
        return self._decoder.decode(self._pieces[int(token)])

    def end(self) -> str:
        """U+FFFD for a character that was never completed, else nothing."""
        return self._decoder.decode(b"", final=True)


class ByteTokenizer(Tokenizer):
    """One token for each byte of UTF-8: a BPE without merges."""

    kind = "bytes"

    def __init__(self) -> None:
        tokens = (*SPECIAL, *(character for _, character in sorted(byte_characters().items())))
        library = _byte_level(models.BPE({token: number for number, token in enumerate(tokens)}, []))
        library.add_special_tokens(list(SPECIAL))
        super().__init__(library)

    def _encode(self, texts: list[str]) -> Iterable[NDArray[Any]]:
        """Token ids of each text; a table look-up, several hundred times faster than the library."""
        ids = self.ordinary.astype(np.uint16)  # in the order of the byte values
        return (ids[np.frombuffer(text.encode(), dtype=np.uint8)] for text in texts)


class BPETokenizer(Tokenizer):
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; on bytes as in Radford et al. 2019)."""

    kind = "bpe"

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn merges from texts.

        Args:
            texts: The training texts, and no others.
            vocab_size: Number of token ids, special ones and the 256 bytes included; a short text may yield fewer.

        Raises:
            DataError: `vocab_size` is less than the special tokens and the bytes need.
        """
        if vocab_size < LEAST:
            raise DataError(f"vocab_size {vocab_size} is too small for bpe: special tokens and bytes are {LEAST}")
        library = _byte_level(models.BPE())
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        )
        library.train_from_iterator((piece for text in texts for piece in cut(text)), trainer)
        return cls(library)

    @classmethod
    def rebuild(cls, model: Any) -> "BPETokenizer":
        """The tokenizer with the vocabulary and the merges of a stored one.

        Raises:
            DataError: they are not those of a byte-level BPE that was learned here.
        """
        vocabulary, merges = _merges(model)
        library = _byte_level(models.BPE(vocabulary, merges))
        library.add_special_tokens(list(SPECIAL))
        return cls(library)


def train(kind: str, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Make a tokenizer for the training texts: "bytes" needs no training, "bpe" learns `vocab_size` ids."""
    return ByteTokenizer() if kind == "bytes" else BPETokenizer.train(texts, vocab_size)


def from_dump(dumped: Any) -> Tokenizer:
    """Make a tokenizer from the values of `dump`.

    It is built anew from the vocabulary and the merges, so that nothing else in the values, such as a regular
    expression, has an effect.

    Raises:
        DataError: They are not from `dump`; the message names the key.
    """
    if not isinstance(dumped, dict) or dumped.get("format") != _FORMAT:
        raise DataError("not a tokenizer that this version of blockformer wrote")
    kind, library = dumped.get("kind"), dumped.get("library")
    if kind not in ("bytes", "bpe") or not isinstance(library, dict):
        raise DataError("not a tokenizer that this version of blockformer wrote: kind or library is wrong")
    made = ByteTokenizer() if kind == "bytes" else BPETokenizer.rebuild(library.get("model"))
    if different := _difference(library, made.dump()["library"], "library"):
        raise DataError(f"not a tokenizer that this version of blockformer wrote: {different} is wrong")
    return made


def _merges(model: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges of a stored BPE.

    Raises:
        DataError: ids are not 0, 1, 2, ..., a byte or special token is missing, or a merge is not of known tokens.
    """
    vocabulary, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        raise DataError("the tokenizer has no vocabulary or no merges")
    characters = byte_characters().values()
    known = {*SPECIAL, *characters}
    if any(type(number) is not int for number in vocabulary.values()) or not known <= vocabulary.keys():
        raise DataError("the tokenizer's vocabulary lacks a byte or a special token, or has an id that is no number")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise DataError("the ids of the tokenizer's vocabulary are not 0, 1, 2, ...")
    if [vocabulary[name] for name in SPECIAL] != list(range(len(SPECIAL))):
        raise DataError(f"the ids of the tokenizer's special tokens are not those of {', '.join(SPECIAL)}")
    pairs = [tuple(pair) for pair in merges if isinstance(pair, list | tuple)]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair) or "".join(pair) not in vocabulary:
            raise DataError("a merge of the tokenizer is not of two of its tokens")
        known.add("".join(pair))
    if len(pairs) != len(merges) or known != vocabulary.keys() or any(not known.issuperset(pair) for pair in pairs):
        raise DataError("the tokenizer's merges do not make its tokens")
    return vocabulary, pairs


def _difference(stored: Any, made: Any, path: str) -> str | None:
    """The first key at which stored values differ from those that are written now; new and old keys may be absent."""
    if isinstance(stored, dict) and isinstance(made, dict):
        parts = (_difference(stored[key], value, f"{path}.{key}") for key, value in made.items() if key in stored)
        return next((part for part in parts if part), None)
    if isinstance(stored, list) and isinstance(made, list) and len(stored) == len(made):
        parts = (_difference(*pair, f"{path}.{place}") for place, pair in enumerate(zip(stored, made, strict=True)))
        return next((part for part in parts if part), None)
    return None if type(stored) is type(made) and stored == made else path


# The library's byte-level pre-tokenizer never joins white space to what is before it, nor a letter to punctuation after
# it (apostrophes begin "'s" and the like). Only letters that are letters in every version of Unicode are counted on.
_LETTER = r"[A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3]"
_CUT = re.compile(rf"(?<=\S)(?=[ \n\r\t])|(?<={_LETTER})(?=[,.:;!?\u3001\u3002\uff0c\uff01\uff1f])")


def cut(text: str, size: int = 2**15) -> Iterator[str]:
    """Cut a text into pieces whose tokens, one after another, are the tokens of the text.

    Args:
        text: The text.
        size: Characters of a piece; a piece ends at the first place after them where the pre-tokenizer cuts anyway.
    """
    start = 0
    while start < len(text):
        found = _CUT.search(text, start + size)
        end = found.start() if found else len(text)
        yield text[start:end]
        start = end


def _byte_level(model: models.BPE) -> Library:
    library = Library(model)
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def byte_characters() -> dict[int, str]:
    """The printable character with which byte-level BPE writes each byte: itself, or the next one past 255."""
    own = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [value for value in range(256) if value not in own]
    return {value: chr(value) for value in own} | {value: chr(256 + n) for n, value in enumerate(others)}
