"""Samples and their batches: rows of packed documents, masked rows of single documents, or padded pairs.

`batch(chosen, epoch)` is a pure function. In each batch, `index` has the numbers of its samples, and `targets` is -100
at positions without a target, which `torch.nn.functional.cross_entropy` ignores.
"""

from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blockformer.data import randomness
from blockformer.data.datasets.base import UNSCORED
from blockformer.data.sequences import Sequences, gather
from blockformer.data.tokenizer import Tokenizer

Batch = dict[str, Tensor]


class Samples(Protocol):
    """Numbered samples, which form batches."""

    vary: ClassVar[bool]
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

    vary: ClassVar[bool] = False
    _length: int

    def lengths(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) tokens of a row."""
        return np.full(len(chosen), self._length)


class PackedRows(EqualRows):
    """Rows of `length` tokens for causal language models, cut from concatenated documents, each after a BOS.

    The target of a token is the next token of its document, or EOS at the document's end; never the BOS of the next
    document. So every byte is predicted once, and the sum of losses over the sum of `bytes` is the code length of the
    text, with any tokenizer.

    Args:
        documents: Token sequences that begin with BOS.
        tokenizer: For special tokens and the number of bytes of each token.
        length: T, tokens in a row.
        separate: Add the number of each token's document to batches, to limit attention to the document.
    """

    def __init__(self, documents: Sequences, tokenizer: Tokenizer, length: int, *, separate: bool = True) -> None:
        self._flat, self._tokenizer, self._length = documents.flat, tokenizer, length
        self._separate = separate and len(documents) > 1

    def __len__(self) -> int:
        return -(-len(self._flat) // self._length)

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `targets` (B, T), `bytes` (B,) and, with several documents, `documents` (B, T)."""
        T, special = self._length, self._tokenizer
        starts = chosen * T
        left = len(self._flat) - starts
        block, _ = gather(self._flat, starts, np.minimum(left, T + 1), special.bos, width=T + 1)
        real = np.arange(T) < left[:, None]
        tokens = np.where(real, block[:, :-1], special.pad)
        following = np.where(block[:, 1:] == special.bos, special.eos, block[:, 1:])
        batch = _scored(chosen, np.where(real, following, UNSCORED), special, tokens=tokens)
        if self._separate:
            documents = np.cumsum(tokens == special.bos, axis=1)
            batch["documents"] = torch.from_numpy(np.where(real, documents, T + 1))
        return batch


class MaskedRows(EqualRows):
    """Rows of at most `length` tokens of one document for masked language models (Devlin et al. 2019, section 3.1).

    A share of each row's tokens is selected; 80 % of them are replaced by the mask token, 10 % by a random token and
    10 % stay, and all of them are targets. Special tokens are never selected.

    Args:
        documents: Token sequences that begin with BOS.
        tokenizer: For special tokens.
        length: T, the most tokens in a row.
        seed: Decides the selection, together with the epoch and the sample's number.
        share: The share of tokens to select; at least one token is.
        fixed: Select the same in every epoch, for evaluation.
    """

    def __init__(
        self, documents: Sequences, tokenizer: Tokenizer, length: int, *, seed: int, share: float = 0.15, fixed: bool
    ) -> None:
        self._flat, self._tokenizer, self._length = documents.flat, tokenizer, length
        self._seed, self._share, self._fixed = seed, share, fixed
        rows = -(-np.diff(documents.offsets) // length)
        self._documents = documents
        self._firsts = np.concatenate(([0], np.cumsum(rows)))  # the first row of each document

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `targets`, `attention_mask`: (B, T) each."""
        T, special = self._length, self._tokenizer
        document = np.searchsorted(self._firsts, chosen, side="right") - 1
        starts = self._documents.offsets[document] + (chosen - self._firsts[document]) * T
        sizes = np.minimum(self._documents.offsets[document + 1] - starts, T)
        text, real = gather(self._flat, starts, sizes, special.pad, width=T)
        tokens, targets = text.copy(), np.full_like(text, UNSCORED)
        for row, sample in enumerate(chosen):
            self._corrupt(text[row], tokens[row], targets[row], int(sample), 0 if self._fixed else epoch)
        batch = {"tokens": tokens, "targets": targets, "attention_mask": real, "index": chosen}
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    def _corrupt(
        self, text: NDArray[np.int64], tokens: NDArray[np.int64], targets: NDArray[np.int64], sample: int, epoch: int
    ) -> None:
        """Select tokens of a row, replace them in `tokens` and write the originals into `targets`."""
        purpose = "mask for evaluation" if self._fixed else "mask"
        draws = randomness.uniform(self._seed, purpose, epoch, sample, count=3 * len(text))
        order, action, substitute = draws.reshape(3, -1)
        ordinary = self._tokenizer.ordinary
        eligible = np.flatnonzero(self._tokenizer.byte_lengths[text])
        count = min(len(eligible), max(1, round(self._share * len(eligible))))
        selected = eligible[np.argsort(order[eligible], kind="stable")[:count]]
        targets[selected] = text[selected]
        masked, random = selected[action[selected] < 0.8], selected[action[selected] >= 0.9]
        tokens[masked] = self._tokenizer.mask
        tokens[random] = ordinary[(substitute[random] * len(ordinary)).astype(np.int64)]


class PaddedPairs:
    """Pairs for encoder-decoders: the source ends with EOS; the decoder reads BOS and target, predicts target and EOS.

    Args:
        sources: Token sequences that end with EOS.
        targets: As many token sequences, which begin with BOS.
        tokenizer: For special tokens and the number of bytes of each token.
    """

    vary: ClassVar[bool] = True

    def __init__(self, sources: Sequences, targets: Sequences, tokenizer: Tokenizer) -> None:
        self._sources, self._targets, self._tokenizer = sources, targets, tokenizer

    def __len__(self) -> int:
        return len(self._sources)

    def lengths(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) tokens of source and target together."""
        return self._sources.lengths(chosen) + self._targets.lengths(chosen)

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`source`, `source_mask` (B, S), `target`, `target_mask`, `targets` (B, T) and `bytes` (B,)."""
        source, source_mask = self._sources.padded(chosen, self._tokenizer.pad)
        target, target_mask, targets = self._answers(chosen)
        given = {"source": source, "source_mask": source_mask, "target": target, "target_mask": target_mask}
        return _scored(chosen, targets, self._tokenizer, **given)

    def _answers(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """(B, T) what the decoder reads, where that is no padding, and what it predicts."""
        special = self._tokenizer
        target, target_mask = self._targets.padded(chosen, special.pad)
        following = np.concatenate((target[:, 1:], np.full_like(target[:, :1], special.pad)), axis=1)
        ends = np.arange(target.shape[1]) == self._targets.lengths(chosen)[:, None] - 1
        return target, target_mask, np.where(ends, special.eos, np.where(target_mask, following, UNSCORED))


class PromptedPairs(PaddedPairs):
    """Pairs for decoder-only models: source, EOS, BOS and target in one row; the target and EOS are predicted.

    The same tokens are scored as in :class:`PaddedPairs`, so that the losses of both kinds of model can be compared.
    """

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `attention_mask`, `targets` (B, S + T) and `bytes` (B,)."""
        source, source_mask = self._sources.padded(chosen, self._tokenizer.pad)
        target, target_mask, following = self._answers(chosen)
        first = source_mask.sum(axis=1, keepdims=True)
        places = np.arange(int(self.lengths(chosen).max(initial=0)))
        asked, answered = places < first, (places >= first) & (places < first + target_mask.sum(axis=1, keepdims=True))
        tokens = np.full(asked.shape, self._tokenizer.pad, dtype=np.int64)
        targets = np.full(asked.shape, UNSCORED, dtype=np.int64)
        tokens[asked], tokens[answered] = source[source_mask], target[target_mask]
        targets[answered] = following[target_mask]
        return _scored(chosen, targets, self._tokenizer, tokens=tokens, attention_mask=asked | answered)


def _scored(chosen: NDArray[np.int64], targets: NDArray[np.int64], tokenizer: Tokenizer, **inputs: NDArray) -> Batch:
    """A batch with `targets`, the number of `bytes` of its targets, and `index`."""
    sizes = np.where(targets == UNSCORED, 0, tokenizer.byte_lengths[np.maximum(targets, 0)]).sum(axis=1)
    batch = {**inputs, "targets": targets, "bytes": sizes, "index": chosen}
    return {name: torch.from_numpy(value) for name, value in batch.items()}
