"""Prediction of the next token after a prefix that is read in both directions."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from blockformer.data import randomness
from blockformer.data.datasets.base import UNSCORED
from blockformer.data.samples import Batch, Samples, TokenizedText
from blockformer.training.objectives.base import Chunk, Factor, Smoothing
from blockformer.training.objectives.causal_lm import CausalLM, PackedRows, PromptedPairs
from registry import Ability, register


@register("prefix_lm")
class PrefixLM(CausalLM):
    """Prediction of the next token after a prefix, whose tokens attend to each other in both directions.

    Of each document in a row, a random number of first tokens is the prefix, and only the tokens after it are
    predicted; of pairs, the prefix is the source. `generate` and `evaluate` read prompts in the same way.

    Args:
        label_smoothing: Share of each target's probability that is spread over the vocabulary, in training only.
        z_loss: Factor of log(Z)^2 in training, where Z is the sum of exp(logits), such as 1e-4.
        loss_chunk: Rows whose logits exist at once, which bounds the memory of the loss; null: by the vocabulary, 2^24
            logits; 0: all.
    """

    paper = "Raffel et al., 2019, arXiv:1910.10683, section 3.2; Dong et al., 2019, arXiv:1905.03197"
    formula = 'loss = -mean_(t > k) log p(x_t ∣ x_1, ..., x_(t-1)) "with prefix" x_1, ..., x_k'
    forms = ("documents", "pairs", "ids")
    bidirectional_prompt = True

    def __init__(self, *, label_smoothing: Smoothing = 0.0, z_loss: Factor = 0.0, loss_chunk: Chunk = None) -> None:
        super().__init__(label_smoothing=label_smoothing, z_loss=z_loss, loss_chunk=loss_chunk)

    def samples(self, text: TokenizedText) -> Samples:
        if text.paired:
            return PairsWithPrefix(*text.pairs, text.tokenizer)
        return RowsWithPrefixes(text)

    def abilities(self, form: str) -> Mapping[Ability, str]:
        if form == "pairs":
            return {"prefix": "sources are read in both directions", **super().abilities(form)}
        why = "rows hold several documents, each with a prefix of its own"
        return {"prefix": "prefixes are read in both directions", "documents": why}


class RowsWithPrefixes(PackedRows):
    """Rows of concatenated documents, each with a prefix.

    The prefix of a document is its first k tokens within the row, BOS included; k is drawn evenly from 1 to their
    number. Targets are the tokens after it, the first of which is predicted at the prefix's last token.

    Args:
        text: The documents, each after a BOS.
    """

    def __init__(self, text: TokenizedText) -> None:
        super().__init__(text.documents, text.tokenizer, text.length)
        self._seed, self._purpose = (0, "prefix for evaluation") if text.evaluates else (text.seed, "prefix")
        self._evaluates = text.evaluates

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `targets`, `prefix` (B, T) and, with several documents, `documents` (B, T)."""
        batch = super().batch(chosen, epoch)
        batch.pop("bytes", None)  # the targets are a part of the text
        shape = batch["tokens"].shape
        documents = batch["documents"].numpy() if "documents" in batch else np.zeros(shape, np.int64)
        prefix = np.zeros(shape, bool)
        when = 0 if self._evaluates else epoch
        for row, sample in enumerate(chosen.tolist()):
            real = min(self._length, len(self._flat) - sample * self._length)
            starts = np.flatnonzero(np.diff(documents[row, :real], prepend=documents[row, 0] - 1))
            sizes = np.diff(starts, append=real)
            drawn = randomness.uniform(self._seed, self._purpose, when, sample, count=len(starts))
            for start, length in zip(starts, 1 + (drawn * sizes).astype(int), strict=True):
                prefix[row, start : start + length] = True
        given = torch.from_numpy(prefix)
        within = given[:, :-1] & given[:, 1:] & torch.from_numpy(documents[:, :-1] == documents[:, 1:])
        batch["targets"][:, :-1][within] = UNSCORED
        return {**batch, "prefix": given}


class PairsWithPrefix(PromptedPairs):
    """Pairs in one row, whose source is the prefix, with its EOS and the BOS of the target."""

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `attention_mask`, `targets`, `prefix` (B, S + T) and `bytes` (B,)."""
        batch = super().batch(chosen, epoch)
        scored = batch["targets"] != UNSCORED
        first = scored & (scored.cumsum(dim=1) == 1)  # BOS, at which the target's first token is predicted
        asked = batch["attention_mask"] & (scored.cumsum(dim=1) == 0)
        return {**batch, "prefix": asked | first}
