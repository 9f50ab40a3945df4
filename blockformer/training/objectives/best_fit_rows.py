"""Rows of whole documents for causal language models."""

import numpy as np
import torch
from numpy.typing import NDArray

from blockformer.data.datasets.base import UNSCORED
from blockformer.data.packing import PackedText
from blockformer.data.samples import Batch, TokenizedText, scored_batch


class BestFitRows(PackedText):
    """Rows of whole documents, placed by best fit and filled up with padding.

    What is predicted is the same as in :class:`~blockformer.training.objectives.causal_lm.PackedRows`, each token and
    each document's end once, also the token that begins the next row of a document longer than a row.

    Args:
        text: Documents, each after a BOS.
        separate: Add the number of each token's document to batches, to limit attention to the document.
    """

    def __init__(self, text: TokenizedText, *, separate: bool = True) -> None:
        super().__init__(text)
        self._separate = separate

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `targets` (B, T), `bytes` (B,) and, if they are kept apart, `documents` (B, T)."""
        places, documents = self.places(chosen)
        special, real = self.text.tokenizer, places >= 0
        tokens = np.full_like(places, special.pad)
        tokens[real] = self.text.documents.flat[places[real]]
        targets = np.full_like(places, UNSCORED)
        targets[real] = self._following(places[real])
        batch = scored_batch(chosen, targets, special, tokens=tokens)
        if self._separate:
            batch["documents"] = torch.from_numpy(documents)
        return batch

    def _following(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N,) the tokens after those at these places, EOS at the end of a document."""
        flat, special = self.text.documents.flat, self.text.tokenizer
        following = flat[np.minimum(places + 1, len(flat) - 1)]
        return np.where((following == special.bos) | (places + 1 == len(flat)), special.eos, following)
