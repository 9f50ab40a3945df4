"""Samples, which an objective makes of tokenized text, and what their batches have in common.

`batch(chosen, epoch)` is a pure function. In each batch, `index` has the numbers of its samples, and `targets` is -100
at positions without a target, which `torch.nn.functional.cross_entropy` ignores; targets that are no ids are NaN there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blockformer.data.datasets.base import UNSCORED, Form
from blockformer.data.sequences import Sequences, Shards
from blockformer.data.tokenizer import Tokenizer

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TokenizedText:
    """One split of a text, from which an objective makes its samples.

    Args:
        parts: the documents, each after a BOS; or the sources, each before an EOS, and as many targets, each after a
            BOS; or, with labels, one or two texts to a row, without special tokens.
        tokenizer: theirs.
        length: tokens in a row.
        seed: of what is drawn at random; 0 where the text is scored.
        evaluates: whether the text is scored, and each sample has to be the same in every epoch.
        extra: the ids of the objective's own tokens by name: special tokens of the tokenizer, or ids after its own.
        labels: (n,) the class or the score of each row; None: rows have none.
        key: everything that decides the documents, as JSON values, under which the cache keeps what is computed of
            them; None: nothing is kept.
        answers: (N,) whether each token of the documents is part of an answer, 1 or 0, and the first of a document
            never is; None: all tokens are predicted. Documents with answers have no BOS but what their template writes.
    """

    parts: tuple[Sequences, ...]
    tokenizer: Tokenizer
    length: int
    seed: int = 0
    evaluates: bool = False
    extra: Mapping[str, int] = field(default_factory=dict)
    labels: NDArray[np.float64] | None = None
    key: Mapping[str, Any] | None = None
    answers: Shards | None = None

    @property
    def paired(self) -> bool:
        """Whether it is pairs."""
        return len(self.parts) > 1

    @property
    def documents(self) -> Sequences:
        """The documents."""
        (documents,) = self.parts
        return documents

    @property
    def pairs(self) -> tuple[Sequences, Sequences]:
        """The sources and the targets."""
        sources, targets = self.parts
        return sources, targets


class SampleMaker(Protocol):
    """What decides which samples a text makes: an objective."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    forms: tuple[Form, ...]
    """The forms of data that it can use."""

    def samples(self, text: TokenizedText) -> "Samples":
        """The samples of a text of one of these forms."""
        ...

    def extra_tokens(self, length: int) -> tuple[str, ...]:
        """Names of tokens that it needs beyond those of the tokenizer, where rows have this length."""
        ...

    def longest_side(self, length: int) -> int:
        """Tokens that each side of a pair may have, where rows have this length."""
        ...


class Samples(Protocol):
    """Numbered samples, which form batches."""

    vary: bool
    """Whether samples have different lengths, so that those of similar length should be together."""

    def __len__(self) -> int: ...

    def lengths(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each of the chosen samples."""
        ...

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """A batch of the chosen samples; random parts depend on the epoch."""
        ...


class EqualRows:
    """Rows of one length."""

    vary: bool = False
    _length: int

    def lengths(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) tokens of a row."""
        return np.full(len(chosen), self._length)


def scored_batch(
    chosen: NDArray[np.int64], targets: NDArray[np.int64], tokenizer: Tokenizer, **inputs: NDArray
) -> Batch:
    """A batch with `targets`, `index` and, where it is known, the number of `bytes` of its targets."""
    batch = {**inputs, "targets": targets, "index": chosen}
    if (lengths := tokenizer.byte_lengths) is not None:
        batch["bytes"] = np.where(targets == UNSCORED, 0, lengths[np.maximum(targets, 0)]).sum(axis=1)
    return {name: torch.from_numpy(value) for name, value in batch.items()}
