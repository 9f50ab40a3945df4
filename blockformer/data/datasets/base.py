"""Base classes of datasets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from blockformer.data.corpora.corpus import Source
from blockformer.data.randomness import Draws
from registry import Block, Slot

Form = Literal["documents", "pairs", "answers", "ids", "classes", "scores", "chats"]
"""What data are: documents; pairs of a source and a target; rows of token ids, some of which are to be predicted;
documents of token ids that no tokenizer belongs to; texts, or pairs that are read as one, each with a class or a
number; or conversations, in which answers are to be predicted."""
Rows = tuple[NDArray[np.int64], NDArray[np.int64]]
UNSCORED = -100
"""The target of a place that has no answer."""

COMMON = ("dataset", "validation", "test", "tokenizer", "length", "batch_size", "seed")
"""Settings of :class:`blockformer.data.module.TextData` that are not those of one dataset or tokenizer."""


class Dataset(Block, ABC):
    """What a model is trained and scored on.

    The constructor's parameters are options of `blockformer fit`: `--data.pairs 8` for a parameter `pairs`.

    Attributes:
        form: what it holds.
        forms: what it can hold, where its options decide the form; None: the form alone.
        reads: parameters that name what is read, such as files. A checkpoint's own values of them are used only where
            this user has written the checkpoint; from anywhere else, the user has to name them again.
        own_ids: whether it gives token ids of its own, which are not text for a tokenizer.
        unused: settings of :class:`~blockformer.data.module.TextData` that mean nothing for it.
    """

    slot = Slot(
        "dataset",
        "Gives the rows that a model is trained and scored on.",
        parent_arguments=(),
        option="data.dataset",
        reserved=frozenset({*COMMON, "objective", "weight"}),  # weight: of a source of a mixture
    )
    form: ClassVar[Form]
    forms: ClassVar[tuple[Form, ...] | None] = None
    reads: ClassVar[tuple[str, ...]] = ()
    own_ids: ClassVar[bool] = False
    unused: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        """Common settings that have no effect beside these parameters, each with the parameter that makes it so."""
        return {}


class TextDataset(Dataset):
    """Documents, pairs of texts, labelled texts or conversations, that a tokenizer turns into rows."""

    form: ClassVar[Form] = "documents"

    @abstractmethod
    def source(self, shares: Mapping[str, float]) -> Source:
        """Where the text comes from.

        Args:
            shares: the share of documents or pairs to hold out for "validation" and for "test".

        Raises:
            DataError: there is no such text.
        """

    @property
    def paired(self) -> bool:
        """Whether it holds pairs of a source and a target."""
        return self.form == "pairs"

    @property
    def labelled(self) -> bool:
        """Whether each text has a label, a class or a number."""
        return self.form in ("classes", "scores")

    @property
    def chats(self) -> bool:
        """Whether it holds conversations."""
        return self.form == "chats"


class Task(Dataset):
    """A synthetic task with known answers: rows of token ids of its own, drawn anew in each step and never stored.

    Only answers are scored, so `val/accuracy` is that of the answers. Rows of validation and test never occur in
    training: a hash of its tokens decides which split a row belongs to.

    Attributes:
        vocab_size: number of token ids.
        least_length: tokens of the shortest row that has all parts of the task.
        chance: accuracy of the best guess that does not look at the row.
        ceiling: the best accuracy that is possible.
        evaluation_length: tokens in a row of validation and test; None: as many as in training. A task that can be
            scored on longer rows than it is trained on has a parameter of this name.
    """

    form: ClassVar[Form] = "answers"
    own_ids = True
    unused = frozenset({"validation", "test", "tokenizer"})
    vocab_size: int
    least_length: int
    chance: float
    ceiling: float = 1.0
    evaluation_length: int | None = None

    @abstractmethod
    def rows(self, draws: Draws, length: int, trained: int) -> Rows:
        """Draw rows.

        Args:
            draws: random numbers for B rows.
            length: T, tokens in a row.
            trained: tokens in a row of training; less than `length` where longer rows are scored.

        Returns:
            tokens: (B, T) ids.
            targets: (B, T) the answer to predict at each place, `UNSCORED` where there is none.
        """
