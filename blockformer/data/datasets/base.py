"""The contract of a dataset."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from blockformer.data.corpora.corpus import Source
from registry import Block, Slot

COMMON = (
    *("dataset", "validation", "test", "tokenizer", "vocab_size", "objective", "length", "batch_size", "mask_rate"),
    *("separate_documents", "seed"),
)
"""Settings of :class:`blockformer.data.module.TextData` that are not those of one dataset."""


class Dataset(Block, ABC):
    """What a model is trained and scored on.

    The constructor's parameters are options of `blockformer fit`: `--data.pairs 8` for a parameter `pairs`.

    Attributes:
        objectives: the objectives that its rows are for.
        reads: parameters that name what is read, such as files. A checkpoint's own values of them are used only where
            this user has written the checkpoint; from anywhere else, the user has to name them again.
        unused: settings of :class:`~blockformer.data.module.TextData` that mean nothing for it.
    """

    slot = Slot(
        "dataset",
        "Gives the rows that a model is trained and scored on.",
        parent_arguments=(),
        option="data.dataset",
        reserved=frozenset(COMMON),
    )
    objectives: ClassVar[tuple[str, ...]]
    reads: ClassVar[tuple[str, ...]] = ()
    unused: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        """Common settings that have no effect beside these parameters, each with the parameter that makes it so."""
        return {}


class TextDataset(Dataset):
    """Documents, or pairs of texts, that a tokenizer turns into rows."""

    objectives = ("causal_lm", "masked_lm")

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
        return "seq2seq" in self.objectives
