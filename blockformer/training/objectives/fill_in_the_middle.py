"""Prediction of the middle of a document from what is before and after it."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray

from blockformer.data.datasets.base import UNSCORED
from blockformer.data.samples import Batch, EqualRows, Samples, TokenizedText
from blockformer.training.objectives.base import Chunk, Factor, Smoothing
from blockformer.training.objectives.causal_lm import CausalLM
from blockformer.training.objectives.document_rows import DocumentRows
from registry import Ability, register

PREFIX, SUFFIX, MIDDLE = "<prefix>", "<suffix>", "<middle>"


@register("fill_in_the_middle")
class FillInTheMiddle(CausalLM):
    """Prediction of the next token in rows of one document, in some of which the middle has been moved to the end.

    Such a row is `<prefix>`, the beginning, `<suffix>`, the end, `<middle>`, the middle and EOS; these tokens come
    after the ids of the tokenizer. It is cut at any two places.

    Args:
        rate: Share of the rows whose middle is moved.
        label_smoothing: Share of each target's probability that is spread over the vocabulary, in training only.
        z_loss: Factor of log(Z)^2 in training, where Z is the sum of exp(logits), such as 1e-4.
        loss_chunk: Rows whose logits exist at once, which bounds the memory of the loss; null: by the vocabulary, 2^24
            logits; 0: all.
    """

    paper = "Bavarian et al., 2022, Efficient Training of Language Models to Fill in the Middle, arXiv:2207.14255"
    formula = (
        "loss = -mean_t log p(y_t ∣ y_1, ..., y_(t-1)); "
        'y = ["<prefix>", a, "<suffix>", c, "<middle>", b, "<eos>"] "for" x = [a, b, c]'
    )
    forms = ("documents",)

    def __init__(
        self,
        *,
        rate: Annotated[float, Ge(0), Le(1)] = 0.5,
        label_smoothing: Smoothing = 0.0,
        z_loss: Factor = 0.0,
        loss_chunk: Chunk = None,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, z_loss=z_loss, loss_chunk=loss_chunk)
        self.rate = rate

    def samples(self, text: TokenizedText) -> Samples:
        return MovedMiddles(text, self.rate)

    def extra_tokens(self, length: int) -> tuple[str, ...]:
        return PREFIX, SUFFIX, MIDDLE

    def abilities(self, form: str) -> Mapping[Ability, str]:
        return {"padding": "documents of different lengths are padded"}


class MovedMiddles(EqualRows):
    """Rows of at most `length` tokens of one document, the middle of some moved to the end.

    Args:
        text: The documents, and the most tokens in a row, which has room for the three tokens between the parts.
        rate: The share of rows whose middle is moved.
    """

    def __init__(self, text: TokenizedText, rate: float) -> None:
        self._text, self._rate, self._length = text, rate, text.length
        self._rows = DocumentRows(text, "middle", 3)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `attention_mask` and `targets`: (B, T) each."""
        text, real = self._rows.read(chosen)
        special, shape = self._text.tokenizer, (len(chosen), self._length)
        tokens, targets, mask = np.full(shape, special.pad), np.full(shape, UNSCORED), np.zeros(shape, bool)
        starts, sizes = self._rows.sizes(chosen)
        ends = np.isin(starts + sizes, self._text.documents.offsets)
        for row, sample in enumerate(chosen):
            found, moved = self._moved(text[row][real[row]], int(sample), epoch)
            last = [special.eos] if moved or ends[row] else [UNSCORED]
            tokens[row, : len(found)], targets[row, : len(found)] = found, [*found[1:], *last]
            mask[row, : len(found)] = True
        batch = {"tokens": tokens, "attention_mask": mask, "targets": targets, "index": chosen}
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    def _moved(self, tokens: NDArray[np.int64], sample: int, epoch: int) -> tuple[NDArray[np.int64], bool]:
        """The tokens of a row as they are, or with the middle at the end; and whether it has been moved."""
        whether, *places = self._rows.uniform(sample, epoch, 3)
        if whether >= self._rate:
            return tokens, False
        first, second = sorted(int(place * (len(tokens) + 1)) for place in places)
        prefix, suffix, middle = ([self._text.extra[name]] for name in (PREFIX, SUFFIX, MIDDLE))
        parts = prefix, tokens[:first], suffix, tokens[second:], middle, tokens[first:second]
        return np.concatenate(parts).astype(np.int64), True
