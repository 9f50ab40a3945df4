"""The contract of a tokenizer that `--data.tokenizer` names."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from blockformer.data.datasets.base import COMMON
from blockformer.data.tokenizer import Tokenizer
from blockformer.errors import DataError
from registry import Block, Slot, entry_of

Texts = Callable[[], Iterable[str]]
"""Reads the training texts, and no others; it may be called again."""
USUAL_SIZE = 1024
LEARN_BYTES = 200_000_000
"""Of text: more changes little in a vocabulary, and each 100 MB takes some 20 s of one core."""


class TokenizerComponent(Block, ABC):
    """How texts become token ids. The constructor's parameters are options of `blockformer fit`.

    Attributes:
        reads: parameters that name a file. A checkpoint has the tokenizer itself, so none is read for it.
    """

    slot = Slot(
        "tokenizer",
        "Turns texts into token ids, and back.",
        parent_arguments=(),
        option="data.tokenizer",
        reserved=frozenset(COMMON),
    )
    reads: ClassVar[tuple[str, ...]] = ()


class GivenTokenizer(TokenizerComponent):
    """A tokenizer that is known without any text."""

    @abstractmethod
    def read(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            DataError: it cannot be read or used.
        """


class LearnedTokenizer(TokenizerComponent):
    """A tokenizer that is learned from the training text. Each parameter is an attribute of the same name.

    Args:
        vocab_size: number of token ids; None: 1024.
        learn_bytes: it is learned from about so many bytes of the training text, in whole documents chosen at random,
            and from all of a smaller text.

    Raises:
        DataError: it is too small.

    Attributes:
        least: the smallest vocabulary.
        why: what needs that many ids.
    """

    least: ClassVar[int]
    why: ClassVar[str]

    def __init__(self, vocab_size: int | None, learn_bytes: int = LEARN_BYTES) -> None:
        self.learn_bytes = learn_bytes
        self.vocab_size = USUAL_SIZE if vocab_size is None else vocab_size
        if self.vocab_size < self.least:
            name = entry_of(type(self)).name
            raise DataError(
                f"data.vocab_size {vocab_size} is too small for {name}: {self.why} are {self.least}; raise it, and "
                "the recipe's vocab_size, or choose another tokenizer"
            )

    @property
    def key(self) -> dict[str, Any]:
        """What decides the tokenizer beside the text, as JSON values."""
        entry = entry_of(type(self))
        return {"tokenizer": entry.name, **{name: getattr(self, name) for name in entry.parameters}}

    @abstractmethod
    def learn(self, texts: Texts) -> Tokenizer:
        """Learn the tokenizer; every process learns the same from the same texts."""
