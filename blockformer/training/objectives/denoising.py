"""Prediction of a document from a damaged copy."""

from collections.abc import Mapping
from itertools import pairwise
from math import exp, factorial
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from blockformer.data.samples import Samples, TokenizedText
from blockformer.training.objectives.base import Chunk, Factor, Smoothing
from blockformer.training.objectives.seq2seq import SequenceToSequence
from blockformer.training.objectives.span_corruption import Rewritten, Tokens
from registry import Ability, register

_LONGEST = 30  # of a span; a Poisson number of mean 10 exceeds it once in ten million


@register("denoising")
class Denoising(SequenceToSequence):
    """Prediction of rows of at most `data.length` tokens of one document from copies in which spans are masked.

    Each span, also an empty one, is replaced by one mask, so that the model has to find out how much is missing.
    Sentences are then in random order.

    Args:
        mask_rate: Share of the tokens that are masked.
        span: Mean length of a span; lengths are Poisson numbers.
        shuffle_sentences: Put the sentences of the copy into a random order. A sentence ends with a token that ends
            with a full stop, a question mark, an exclamation mark or a line break.
        label_smoothing: Share of each target's probability that is spread over the vocabulary, in training only.
        z_loss: Factor of log(Z)^2 in training, where Z is the sum of exp(logits), such as 1e-4.
        loss_chunk: Rows whose logits exist at once, which bounds the memory of the loss; null: by the vocabulary, 2^24
            logits; 0: all.
    """

    paper = "Lewis et al., 2020, BART: Denoising Sequence-to-Sequence Pre-training, arXiv:1910.13461, section 2.2"
    formula = "loss = -mean_t log p(x_t ∣ x_1, ..., x_(t-1), x′); x′ = noised(x)"
    forms = ("documents",)

    def __init__(
        self,
        *,
        mask_rate: Annotated[float, Gt(0), Lt(1)] = 0.3,
        span: Annotated[float, Ge(1), Lt(10)] = 3.0,
        shuffle_sentences: bool = True,
        label_smoothing: Smoothing = 0.0,
        z_loss: Factor = 0.0,
        loss_chunk: Chunk = None,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, z_loss=z_loss, loss_chunk=loss_chunk)
        self.mask_rate, self.span, self.shuffle_sentences = mask_rate, span, shuffle_sentences

    def samples(self, text: TokenizedText) -> Samples:
        return DamagedRows(text, self.mask_rate, self.span, shuffled=self.shuffle_sentences)

    def abilities(self, form: str) -> Mapping[Ability, str]:
        return {"padding": "rows of different lengths are padded"}


class DamagedRows(Rewritten):
    """Rows of documents, and copies of them with masked spans and sentences in random order.

    Args:
        text: The documents, and the most tokens in a row.
        share: The share of tokens to mask.
        span: Mean length of the spans.
        shuffled: Whether sentences are put into a random order.
    """

    def __init__(self, text: TokenizedText, share: float, span: float, *, shuffled: bool) -> None:
        super().__init__(text, "damage")
        self._share = share
        self._cumulative = np.cumsum([exp(-span) * span**n / factorial(n) for n in range(_LONGEST)])
        self._ends: NDArray[np.bool_] | None = None
        if shuffled:
            names = (text.tokenizer.name(token) for token in range(text.tokenizer.vocab_size))
            self._ends = np.array([name.rstrip(" ").endswith((".", "?", "!", "\n")) for name in names])

    def pair(self, tokens: Tokens, sample: int, epoch: int) -> tuple[Tokens, Tokens]:
        lengths, places, order = self.rows.uniform(sample, epoch, 3 * len(tokens)).reshape(3, -1)
        masks, gone = self._spans(np.searchsorted(self._cumulative, lengths), places)
        # before each token, a mask where a span begins; -1: nothing
        written = np.stack([np.where(masks[:-1], self.text.tokenizer.mask, -1), np.where(gone, -1, tokens)], axis=1)
        pieces = [written[start:end].flatten() for start, end in pairwise(self._cuts(tokens))]
        if self._ends is not None:
            pieces = [pieces[number] for number in np.argsort(order[: len(pieces)], kind="stable")]
        damaged = np.concatenate([*pieces, np.where(masks[-1:], self.text.tokenizer.mask, -1)])
        return damaged[damaged >= 0], tokens

    def _spans(
        self, lengths: NDArray[np.int64], places: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(L + 1,) before which places a span begins, and (L,) which tokens are in one.

        Spans do not touch, and there are no more of them than masked tokens, so that no copy is longer than its row.
        """
        masks, gone = np.zeros(len(lengths) + 1, bool), np.zeros(len(lengths), bool)
        left = round(self._share * len(lengths))
        for length, place in zip(lengths, places, strict=True):
            size = min(int(length), left)
            start = int(place * (len(lengths) - size + 1))
            around = slice(max(0, start - 1), start + size + 1)
            fits = size or masks.sum() < gone.sum()
            if left and fits and not gone[around].any() and not masks[around].any():
                masks[start] = True
                gone[start : start + size] = True
                left -= size
        return masks, gone

    def _cuts(self, tokens: Tokens) -> list[int]:
        """Where sentences begin, and where the last one ends."""
        ends = [] if self._ends is None else (np.flatnonzero(self._ends[tokens]) + 1).tolist()
        return sorted({0, *ends, len(tokens)})
