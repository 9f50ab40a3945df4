"""Rows of single documents, which several objectives corrupt, each in its way."""

import numpy as np
from numpy.typing import NDArray

from blockformer.data import randomness
from blockformer.data.samples import TokenizedText
from blockformer.data.sequences import gather
from blockformer.errors import DataError


class DocumentRows:
    """Rows of at most T tokens, each of one document.

    Args:
        text: Documents, each after a BOS.
        purpose: Name of what is drawn at random for a row.
        room: Tokens that the objective adds to a row; T is so much less than the length of the text's rows.

    Raises:
        DataError: The rows are too short.
    """

    def __init__(self, text: TokenizedText, purpose: str, room: int = 0) -> None:
        if text.length <= 2 * room:
            raise DataError(f"data.length {text.length} is too short for this objective: {2 * room + 1} or more")
        self.text, self.width = text, text.length - room
        self._purpose = f"{purpose} for evaluation" if text.evaluates else purpose
        rows = -(-np.diff(text.documents.offsets) // self.width)
        self._firsts = np.concatenate(([0], np.cumsum(rows)))  # the first row of each document

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def sizes(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n,) where each row starts among all tokens, and how many it has."""
        offsets = self.text.documents.offsets
        document = np.searchsorted(self._firsts, chosen, side="right") - 1
        starts = offsets[document] + (chosen - self._firsts[document]) * self.width
        return starts, np.minimum(offsets[document + 1] - starts, self.width)

    def read(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(B, T) the chosen rows, padded, and where there is no padding."""
        return gather(self.text.documents.flat, *self.sizes(chosen), self.text.tokenizer.pad, width=self.width)

    def uniform(self, sample: int, epoch: int, count: int) -> NDArray[np.float64]:
        """Random numbers in [0, 1) for a row; they are the same in every epoch where the text is scored."""
        seed, when = (0, 0) if self.text.evaluates else (self.text.seed, epoch)
        return randomness.uniform(seed, self._purpose, when, sample, count=count)
