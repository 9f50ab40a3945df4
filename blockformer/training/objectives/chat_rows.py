"""Rows of conversations for causal language models, in which answers alone are predicted."""

import numpy as np
import torch
from numpy.typing import NDArray

from blockformer.data.datasets.base import UNSCORED
from blockformer.data.packing import PackedText
from blockformer.data.samples import Batch, EqualRows, TokenizedText, scored_batch
from blockformer.data.sequences import Shards


class ConcatenatedChats(EqualRows):
    """Rows of `length` tokens, cut from concatenated conversations.

    Args:
        text: The conversations, and L, the tokens in a row.
        answers: (N,) whether each token is part of an answer, and to be predicted.
        separate: Add the number of each token's conversation to batches, to limit attention to it.
    """

    def __init__(self, text: TokenizedText, answers: Shards, *, separate: bool = True) -> None:
        self._text, self._answers, self._separate, self._length = text, answers, separate, text.length

    def __len__(self) -> int:
        return -(-len(self._text.documents.flat) // self._length)

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `targets` (B, T), `bytes` (B,) and, if they are kept apart, `documents` (B, T)."""
        flat, offsets = self._text.documents.flat, self._text.documents.offsets
        places = chosen[:, None] * self._length + np.arange(self._length)
        real = places < len(flat)
        numbers = np.searchsorted(offsets, np.minimum(places, len(flat) - 1), side="right")
        chats = np.where(real, numbers - numbers[:, :1] + 1, self._length + 1)
        batch = answers_batch(self._text, self._answers, chosen, np.where(real, places, -1))
        return {**batch, "documents": torch.from_numpy(chats)} if self._separate else batch


class BestFitChats(PackedText):
    """Rows of whole conversations, placed by best fit and filled up with padding.

    Args:
        text: The conversations, and the tokens in a row.
        answers: (N,) whether each token is part of an answer, and to be predicted.
        separate: Add the number of each token's conversation to batches, to limit attention to it.
    """

    def __init__(self, text: TokenizedText, answers: Shards, *, separate: bool = True) -> None:
        super().__init__(text)
        self._answers, self._separate = answers, separate

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `targets` (B, T), `bytes` (B,) and, if they are kept apart, `documents` (B, T)."""
        places, chats = self.places(chosen)
        batch = answers_batch(self.text, self._answers, chosen, places)
        return {**batch, "documents": torch.from_numpy(chats)} if self._separate else batch


def answers_batch(text: TokenizedText, answers: Shards, chosen: NDArray[np.int64], places: NDArray[np.int64]) -> Batch:
    """A batch in which the target of each token is the next one, if that is part of an answer.

    Args:
        text: The conversations.
        answers: (N,) whether each token is part of an answer; the first one of a conversation never is.
        chosen: (B,) numbers of the rows.
        places: (B, T) places of their tokens, -1 for padding.
    """
    flat, real = text.documents.flat, places >= 0
    tokens, targets = np.full_like(places, text.tokenizer.pad), np.full_like(places, UNSCORED)
    tokens[real] = flat[places[real]]
    following = np.minimum(places[real] + 1, len(flat) - 1)
    wanted = (answers[following] == 1) & (following > places[real])
    targets[real] = np.where(wanted, flat[following], UNSCORED)
    return scored_batch(chosen, targets, text.tokenizer, tokens=tokens)
