"""Prediction of masked tokens."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from torch import Tensor

from blockformer.data.datasets.base import UNSCORED
from blockformer.data.samples import Batch, EqualRows, Samples, TokenizedText
from blockformer.data.words import Words
from blockformer.errors import UserError
from blockformer.training.objectives.base import Chunk, Factor, Smoothing, TokenObjective, token_count
from blockformer.training.objectives.document_rows import DocumentRows
from blocks.models.base import Model
from registry import Ability, register


@register("masked_lm")
class MaskedLM(TokenObjective):
    """Prediction of masked tokens from both sides, in rows of at most `data.length` tokens of one document.

    Args:
        mask_rate: Share of a row's tokens that are predicted.
        span: Mean length of the spans that are predicted as a whole, such as 3 (Joshi et al. 2020, SpanBERT,
            arXiv:1907.10529); 1: single tokens.
        unit: What is predicted as a whole: "token", or "word", all tokens of a word as the tokenizer divides texts into
            words (with a byte tokenizer: at white space), which excludes `span`.
        label_smoothing: Share of each target's probability that is spread over the vocabulary, in training only.
        z_loss: Factor of log(Z)^2 in training, where Z is the sum of exp(logits), such as 1e-4.
        loss_chunk: Rows whose logits exist at once, which bounds the memory of the loss; null: by the vocabulary, 2^24
            logits; 0: all.
    """

    paper = "Devlin et al., 2019, BERT: Pre-training of Deep Bidirectional Transformers, arXiv:1810.04805"
    formula = 'loss = -mean_(t ∈ M) log p(x_t ∣ x′); x′ = x "with" M "masked"'
    kinds = ("encoder_only",)
    forms = ("documents",)

    def __init__(
        self,
        *,
        mask_rate: Annotated[float, Gt(0), Le(1)] = 0.15,
        span: Annotated[float, Ge(1)] = 1.0,
        unit: Literal["token", "word"] = "token",
        label_smoothing: Smoothing = 0.0,
        z_loss: Factor = 0.0,
        loss_chunk: Chunk = None,
    ) -> None:
        super().__init__(label_smoothing, z_loss, loss_chunk)
        if unit == "word" and span != 1:
            raise UserError(f"objective.span {span:g} has no effect with objective.unit word; remove one of them")
        self.mask_rate, self.span, self.unit = mask_rate, span, unit

    def samples(self, text: TokenizedText) -> Samples:
        return MaskedRows(text, share=self.mask_rate, span=self.span, words=self.unit == "word")

    def abilities(self, form: str) -> Mapping[Ability, str]:
        return {"padding": "documents of different lengths are padded"}

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        optional = {key: batch[key] for key in ("segments", "attention_mask", "documents") if key in batch}
        return model(batch["tokens"], **optional, hidden=True)

    def tokens(self, batch: Batch) -> Tensor:
        return token_count(batch["tokens"], batch.get("attention_mask"))


class MaskedRows(EqualRows):
    """Rows of at most `length` tokens of one document for masked language models (Devlin et al. 2019, section 3.1).

    A share of each row's tokens is selected; 80 % of them are replaced by the mask token, 10 % by a random token and
    10 % stay, and all of them are targets. Of a span all tokens are treated alike (Joshi et al. 2020). Special tokens
    are never selected.

    Args:
        text: The documents, and T, the most tokens in a row.
        share: The share of tokens to select; at least one token is.
        span: Mean length of the spans that are selected; 1: single tokens.
        words: Select whole words instead, with as many tokens together as single ones, wherever some words have them.
        always: Replace all selected tokens by the mask token.
    """

    def __init__(
        self,
        text: TokenizedText,
        *,
        share: float = 0.15,
        span: float = 1.0,
        words: bool = False,
        always: bool = False,
    ) -> None:
        self._rows, self._length, self._tokenizer = DocumentRows(text, "mask"), text.length, text.tokenizer
        self._share, self._span = share, span
        self._words = Words(text.tokenizer) if words else None
        self._masked, self._random = (1.0, 0.0) if always else (0.8, 0.1)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `targets`, `attention_mask`: (B, T) each."""
        text, real = self._rows.read(chosen)
        tokens, targets = text.copy(), np.full_like(text, UNSCORED)
        for row, sample in enumerate(chosen):
            self._corrupt(text[row], tokens[row], targets[row], int(sample), epoch)
        batch = {"tokens": tokens, "targets": targets, "attention_mask": real, "index": chosen}
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    def _corrupt(
        self, text: NDArray[np.int64], tokens: NDArray[np.int64], targets: NDArray[np.int64], sample: int, epoch: int
    ) -> None:
        """Select tokens of a row, replace them in `tokens` and write the originals into `targets`."""
        order, action, substitute = self._rows.uniform(sample, epoch, 3 * len(text)).reshape(3, -1)
        ordinary = self._tokenizer.ordinary
        eligible = np.flatnonzero(self._tokenizer.is_ordinary[text])
        count = min(len(eligible), max(1, round(self._share * len(eligible))))
        if self._words is not None:
            places, firsts = whole_words(order, count, self._words.numbers(text)[eligible])
            selected, actions = eligible[places], action[firsts]
        elif self._span == 1:
            selected = eligible[np.argsort(order[eligible], kind="stable")[:count]]
            actions = action[selected]
        else:
            places, firsts = spans(order, count, len(eligible), self._span)
            selected, actions = eligible[places], action[firsts]
        targets[selected] = text[selected]
        masked, random = selected[actions < self._masked], selected[actions >= 1 - self._random]
        tokens[masked] = self._tokenizer.mask
        tokens[random] = ordinary[(substitute[random] * len(ordinary)).astype(np.int64)]


def spans(
    draws: NDArray[np.float64], count: int, length: int, mean: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose places in spans that do not overlap.

    Their lengths are geometric, those of more than three times the mean drawn as the longest, and they begin anywhere;
    what is chosen already is left out of a span. What is missing once all numbers are used is filled up from the left.

    Args:
        draws: numbers in [0, 1).
        count: places to choose.
        length: places there are.
        mean: mean length of a span.

    Returns:
        (count,) the places, ascending, and the number of the span that each belongs to.
    """
    owner = np.full(length, -1)
    stop, longest, left = 1 - 1 / mean, int(3 * mean), count
    for number, (size, place) in enumerate(draws[: len(draws) // 2 * 2].reshape(-1, 2)):
        if not left:
            break
        drawn = min(longest, 1 + int(np.log1p(-size) / np.log(stop)), left, length)
        start = int(place * (length - drawn + 1))
        free = np.flatnonzero(owner[start : start + drawn] < 0) + start
        owner[free] = number
        left -= len(free)
    owner[np.flatnonzero(owner < 0)[:left]] = len(draws) // 2
    places = np.flatnonzero(owner >= 0)
    return places, owner[places]


def whole_words(
    draws: NDArray[np.float64], count: int, words: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose places that make up whole words.

    Words are taken in random order; one is left out if the places that are then missing could not be made up of the
    words after it. So `count` places are chosen wherever some words have that many together, else the nearest number
    below it, or the shortest word.

    Args:
        draws: numbers in [0, 1), one for each word.
        count: places to choose.
        words: (length,) the word of each place, ascending.

    Returns:
        (count,) the places, ascending, and the number of the word that each belongs to, counted from 0.
    """
    _, owner, sizes = np.unique(words, return_inverse=True, return_counts=True)
    order = np.argsort(draws[: len(sizes)], kind="stable")
    most = max(count, *sizes.tolist()) if len(sizes) else 0
    sums = [1]  # bit n of sums[i]: the last i words in this order can make up n places
    for size in sizes[order[::-1]]:
        sums.append((sums[-1] | sums[-1] << int(size)) & (2 << most) - 1)
    possible = [n for n in range(1, most + 1) if sums[-1] >> n & 1]
    left = max((n for n in possible if n <= count), default=min(possible, default=0))
    chosen = np.zeros(len(sizes), bool)
    for place, word in enumerate(order):
        size = int(sizes[word])
        if size <= left and sums[len(order) - place - 1] >> (left - size) & 1:
            chosen[word], left = True, left - size
    places = np.flatnonzero(chosen[owner])
    return places, owner[places]
