"""Rows of labelled texts: special tokens, a text or two, and the label."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from blockformer.data.samples import Batch, TokenizedText
from blockformer.data.sequences import padded
from blockformer.errors import DataError


class LabelledRows:
    """Labelled texts, each between the special tokens of the tokenizer.

    Of two texts the second follows the first in the row, after the tokens that the tokenizer puts between two, and has
    the segment 1 (Devlin et al. 2019, BERT, section 3). Rows are cut off at `length` tokens; of two texts the longer
    one is.

    Args:
        text: The texts and their labels.
        targets: Makes the targets of (B,) labels.

    Raises:
        DataError: Rows have no room for a token of each text.
    """

    vary: bool = True

    def __init__(self, text: TokenizedText, targets: Callable[[NDArray[np.float64]], NDArray]) -> None:
        assert text.labels is not None
        self._parts, self._labels, self._targets = text.parts, text.labels, targets
        special = text.tokenizer
        self._pad, around = special.pad, (*special.around("pooled"), special.between)
        self._before, self._after, self._between = (np.array(ids, np.int64) for ids in around)
        added = len(self._before) + len(self._after) + len(self._between) * (len(self._parts) - 1)
        self._room = text.length - added
        if self._room < len(self._parts):
            raise DataError(
                f"data.length {text.length} is too short for this dataset: {added + len(self._parts)} or more"
            )

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def cut(self) -> int:
        """Number of rows that are cut off."""
        return int((self._sizes(np.arange(len(self))) > self._room).sum())

    def lengths(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) tokens of the texts of each row, cut off."""
        return np.minimum(self._sizes(chosen), self._room)

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `attention_mask` (B, T), `targets` (B,), and of two texts `segments` (B, T)."""
        rows = [self._row(int(one)) for one in chosen]
        tokens, real = padded([np.concatenate(row) for row in rows], self._pad)
        batch = {"tokens": tokens, "attention_mask": real, "targets": self._targets(self._labels[chosen])}
        if len(self._parts) > 1:
            firsts = np.array([len(row[0]) for row in rows])
            batch["segments"] = ((np.arange(tokens.shape[1]) >= firsts[:, None]) & real).astype(np.int64)
        return {name: torch.from_numpy(value) for name, value in {**batch, "index": chosen}.items()}

    def _sizes(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.sum([part.lengths(chosen) for part in self._parts], axis=0)

    def _row(self, index: int) -> list[NDArray[np.int64]]:
        """The tokens of a row: those of each segment."""
        texts = [part[index] for part in self._parts]
        if len(texts) == 1:
            return [np.concatenate((self._before, texts[0][: self._room], self._after))]
        first, second = _shares(len(texts[0]), len(texts[1]), self._room)
        left = np.concatenate((self._before, texts[0][:first], self._between))
        return [left, np.concatenate((texts[1][:second], self._after))]


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts fit into a row, if the longer one is cut off until both fit."""
    short = min(first, second, room // 2)
    return (short, min(second, room - short)) if first <= second else (min(first, room - short), short)
