"""A tokenizer: texts to token ids and back, with its special tokens and what each token stands for."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Library

from blockformer.data.chat_template import ChatTemplate
from blockformer.data.token_streams import ByteStream, Stream
from blockformer.errors import DataError
from registry.text import shortened

FORMAT = "blockformer tokenizer 2"
_BATCH = 2**19
"""Characters that the library encodes at once; it takes about 120 bytes of memory for each."""


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of the tokens that no text encodes to.

    Args:
        pad: Fills rows up; a mask keeps it out of sight wherever the model supports one.
        bos: Begins each document and what a decoder writes.
        eos: Ends them.
        mask: Hides a token from a masked language model; None: there is none, and no such model can be trained.
    """

    pad: int
    bos: int
    eos: int
    mask: int | None


class Tokenizer(ABC):
    """What data and generation need of a tokenizer.

    Args:
        library: The tokenizer of the `tokenizers` package.
        special: Its special tokens.
        pieces: The bytes that each token stands for wherever it is, none for special tokens; None: the bytes of a token
            depend on its neighbours, or the text cannot be told from its tokens.

    Attributes:
        vocab_size: V, the number of token ids, special ones included.
        is_ordinary: (V,) whether a token stands for text.
        ordinary: ids of the tokens that stand for text, ascending.
        exact: whether the pieces of a text's tokens are the text; False where a text has shown that they are not.
        byte_lengths: (V,) the number of bytes of each token; None where they do not add up to those of texts.
        chat: how a conversation becomes a text; None: that is not known.
        named: the names of special tokens that its files give to a chat template; None: `token_names`.
    """

    kind: ClassVar[str]
    chat: ChatTemplate | None = None
    named: Mapping[str, str] | None = None
    _cuts: re.Pattern[str] | None = None
    """Where a text may be cut without changing its tokens; None: nowhere."""

    def __init__(self, library: Library, special: SpecialTokens, pieces: Sequence[bytes] | None = None) -> None:
        library.encode_special_tokens = True  # "<eos>" in a text is five characters; not stored in the library's JSON
        vocabulary = library.get_vocab()
        self._library = self._encoder = library
        self.special = special
        self.vocab_size = max(vocabulary.values()) + 1
        names = {number: name for name, number in vocabulary.items()}
        self.names = tuple(names.get(number, "") for number in range(self.vocab_size))
        self.pieces, self.exact = None if pieces is None else tuple(pieces), pieces is not None
        ordinary = [number in names for number in range(self.vocab_size)]
        for number, added in library.get_added_tokens_decoder().items():
            ordinary[number] = not added.special
        self.is_ordinary = np.array(ordinary)

    @property
    def pad(self) -> int:
        """The id of the token that fills rows up."""
        return self.special.pad

    @property
    def bos(self) -> int:
        """The id of the token that begins a document."""
        return self.special.bos

    @property
    def eos(self) -> int:
        """The id of the token that ends a document."""
        return self.special.eos

    @property
    def mask(self) -> int:
        """The id of the token that hides another one.

        Raises:
            DataError: there is none.
        """
        if self.special.mask is None:
            raise DataError(
                "the tokenizer has no mask token, which masked language models need: name a token of its vocabulary by "
                "--data.mask_token, or choose another --data.tokenizer"
            )
        return self.special.mask

    @cached_property
    def ordinary(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.is_ordinary)

    @property
    def byte_lengths(self) -> NDArray[np.int64] | None:
        return self._piece_lengths if self.exact else None

    @cached_property
    def _piece_lengths(self) -> NDArray[np.int64]:
        return np.array([len(piece) for piece in self.pieces or ()], dtype=np.int64)

    def around(self, kind: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens before and after a text that a model of this kind reads; of an encoder-decoder: a source.

        The target of an encoder-decoder begins with :attr:`bos`. The kind of a model whose head pools is ``pooled``.
        """
        if kind == "pooled":
            return (self.bos,), (self.eos,)
        return ((self.bos,) if kind == "decoder_only" else ()), ((self.eos,) if kind == "encoder_decoder" else ())

    def special_token(self, name: str) -> int | None:
        """The id of the special token of this name, to which no text encodes; None: there is none."""
        token = self._library.token_to_id(name)
        return None if token is None or self.is_ordinary[token] else token

    @property
    def token_names(self) -> Mapping[str, str]:
        """The names of its special tokens, by their keys in a tokenizer_config.json."""
        return {f"{role}_token": self.names[one] for role, one in asdict(self.special).items() if one is not None}

    def use_template(self, text: str, origin: str) -> None:
        """Take another chat template.

        Args:
            text: The template.
            origin: Where it is from, for messages.
        """
        named = self.token_names if self.named is None else self.named
        self.chat = ChatTemplate(text, self.chat.tokens if self.chat else named, origin)

    @property
    def between(self) -> tuple[int, ...]:
        """The special tokens between two texts that an encoder reads in one row."""
        return (self.eos,)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.encode_many([text])[0].tolist()

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Token ids of each text, without special tokens.

        Raises:
            DataError: The library cannot encode one of them.
        """
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
            for piece in cut(text, self._cuts):
                batch.append((number, piece))
                size += len(piece)
                if size >= _BATCH:
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch

    def _encode(self, texts: list[str]) -> Iterable[NDArray[Any]]:
        """Token ids of each text of a batch."""
        try:
            codes = self._encoder.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:
            raise unusable(error, "cannot encode a text") from None
        return (np.array(code.ids, dtype=np.uint32) for code in codes)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; invalid UTF-8 becomes U+FFFD, special tokens are dropped."""
        try:
            return self._library.decode([int(one) for one in ids], skip_special_tokens=True)
        except BaseException as error:
            raise unusable(error, "cannot decode tokens") from None

    def stream(self, before: Sequence[int] = ()) -> Stream | ByteStream:
        """A decoder for tokens that arrive one at a time, after those of a prompt."""
        return Stream(self.decode, before)

    def name(self, token: int) -> str:
        """A readable form of one token, for tables and logs."""
        return self.decode([token]) or (self.names[token] if token < self.vocab_size else f"id {token}")

    def library(self) -> Library:
        """A copy of the tokenizer of the `tokenizers` package, which finds special tokens in texts."""
        return Library.from_str(self._library.to_str())

    @classmethod
    @abstractmethod
    def rebuild(cls, dumped: Mapping[str, Any]) -> "Tokenizer":
        """The tokenizer of values that :meth:`dump` has given, and that may come from a stranger.

        Raises:
            DataError: No tokenizer of this kind has such values.
        """

    def dump(self) -> dict[str, Any]:
        """JSON values from which `from_dump` makes this tokenizer."""
        return {"format": FORMAT, "kind": self.kind, "library": json.loads(self._library.to_str()), **self._chat_dump()}

    def encodes_as(self, other: "Tokenizer") -> bool:
        """Whether both give the same ids to all texts; their chat templates may differ."""
        return {**self.dump(), "chat": None} == {**other.dump(), "chat": None}

    def _chat_dump(self) -> dict[str, Any]:
        return {} if self.chat is None else {"chat": self.chat.dump()}


def unusable(error: BaseException, what: str) -> BaseException:
    """The error for a failure of the library, which panics instead of raising an `Exception`; any other as it is."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return DataError(f"the tokenizer {what}: {shortened(' '.join(str(error).split()))}")
    return error


def cut(text: str, places: re.Pattern[str] | None, size: int = 2**15) -> Iterator[str]:
    """Cut a text into pieces whose tokens, one after another, are the tokens of the text.

    Args:
        text: The text.
        places: Matches where the tokenizer's words end anyway; None: the text stays whole.
        size: Characters of a piece; a piece ends at the first such place after them.
    """
    start = 0
    while start < len(text):
        found = None if places is None else places.search(text, start + size)
        end = found.start() if found else len(text)
        yield text[start:end]
        start = end
