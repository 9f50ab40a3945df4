"""Embeddings of texts in which the two texts of a pair are near."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Gt
from numpy.typing import NDArray
from torch import Tensor

from blockformer.data.samples import Batch, Samples, TokenizedText
from blockformer.data.sequences import padded
from blockformer.training.objectives.base import token_count
from blockformer.training.objectives.pooled import PooledObjective, sums_of_texts
from blockformer.training.score import IGNORED, Score
from blocks.models.base import Model
from registry import register


@register("contrastive")
class Contrastive(PooledObjective):
    """Embeddings of texts, by a head that pools: the two texts of a pair are near, and the other pairs' texts far.

    With embeddings a_i and b_i of the texts of pair i, normalised to length 1, and temperature t, the loss is the mean
    of two cross-entropies: of choosing b_i among all b_j of the batch by a_i . b_j / t, and a_i among all a_j likewise
    (symmetric InfoNCE with in-batch negatives). The negatives are those of the batch in one process, so
    `data.batch_size` over the processes decides how hard the choice is, in training and in `accuracy`: the share of a_i
    that are nearest to their own b_i.

    Args:
        temperature: t; the lower, the more the nearest of the other texts count.
    """

    formula = (
        "loss = -mean_i(log P_(i,i) + log Q_(i,i)) / 2; "
        "P_(i,j) = exp((a_i * b_j) / t) / sum_k exp((a_i * b_k) / t); "
        "Q_(i,j) = exp((a_i * b_j) / t) / sum_k exp((a_k * b_j) / t)"
    )

    expected_failures: ClassVar[Mapping[str, str]] = {
        "loss_is_the_sum_over_rows": "the negatives of a text are the other rows of its batch"
    }
    paper = (
        "van den Oord et al., 2018, arXiv:1807.03748; Radford et al., 2021, Learning Transferable Visual Models From "
        "Natural Language Supervision, arXiv:2103.00020, section 2.3"
    )
    forms = ("pairs",)
    keys = ("tokens", "positive", "targets")

    def __init__(self, *, temperature: Annotated[float, Gt(0)] = 0.05) -> None:
        self.temperature = temperature

    def samples(self, text: TokenizedText) -> Samples:
        return PairRows(text)

    def longest_side(self, length: int) -> int:
        return length - 1

    def tokens(self, batch: Batch) -> Tensor:
        return super().tokens(batch) + token_count(batch["positive"], batch.get("positive_mask"))

    def logits(self, model: Model, batch: Batch) -> Tensor:
        """(B, B) similarities of first and second texts over the temperature, in at least float32."""
        first, second = self._embeddings(model, batch).chunk(2)
        with torch.autocast(first.device.type, enabled=False):  # the temperature would multiply errors of rounding
            return _normalised(first) @ _normalised(second).T / self.temperature

    def _embeddings(self, model: Model, batch: Batch) -> Tensor:
        """(2 B, D): of the first texts, then of the second ones, in one pass."""
        texts = batch["tokens"], batch["positive"]
        width = max(one.shape[1] for one in texts)
        masks = [batch.get(key) for key in ("attention_mask", "positive_mask")]
        real = [torch.ones_like(t, dtype=torch.bool) if m is None else m for t, m in zip(texts, masks, strict=True)]
        tokens, mask = (torch.cat([F.pad(t, (0, width - t.shape[1])) for t in both]) for both in (texts, real))
        return model(tokens, attention_mask=mask)

    def __call__(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        scored = batch["targets"] != IGNORED
        scores = self.logits(model, batch)[scored][:, scored]
        own = torch.arange(len(scores), device=scores.device)
        loss = sum(F.cross_entropy(one, own, reduction="sum") for one in (scores, scores.T)) / 2
        assert isinstance(loss, Tensor)
        correct = (scores.argmax(-1) == own).sum() if len(scores) else scored.sum()
        return loss, sums_of_texts(loss, loss, correct, scored.sum(), self.tokens(batch))

    def figures(self, sums: Tensor, model: Model) -> dict[str, float]:
        found = Score.of(sums).metrics()
        return {name: found[name] for name in ("loss", "accuracy")}

    def predict(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        nearest = self.logits(model, batch).argmax(-1)
        own = torch.arange(len(nearest), device=nearest.device)
        return {
            "predictions": batch["index"][nearest] if "index" in batch else nearest,
            "targets": torch.where(batch["targets"] == IGNORED, IGNORED, batch.get("index", own)),
        }

    def written(self, predicted: Tensor, wanted: Tensor, data: Any) -> dict[str, Any] | None:
        return None if wanted < 0 else {"nearest": int(predicted), "pair": int(wanted)}


class PairRows:
    """Pairs of texts, each between the special tokens of the tokenizer.

    Args:
        text: The pairs, with the special tokens of a source and a target.
    """

    vary: bool = True

    def __init__(self, text: TokenizedText) -> None:
        self._first, self._second = text.pairs
        special = text.tokenizer
        before, after = special.around("encoder_decoder")
        self._around, self._pad = (len(before), len(after)), special.pad
        self._bounds = [np.array(ids, np.int64) for ids in special.around("pooled")]

    def __len__(self) -> int:
        return len(self._first)

    def lengths(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) tokens of the longer text of each pair."""
        return np.maximum(self._first.lengths(chosen), self._second.lengths(chosen))

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens`, `attention_mask` (B, S), `positive`, `positive_mask` (B, T); `targets` (B,) are 0: scored."""
        (before, after), (start, end) = self._around, self._bounds
        firsts = [row[before : len(row) - after] for row in (self._first[int(one)] for one in chosen)]
        seconds = [self._second[int(one)][1:] for one in chosen]  # without BOS
        batch: dict[str, NDArray] = {"targets": np.zeros(len(chosen), np.int64), "index": chosen}
        for name, mask, texts in (("tokens", "attention_mask", firsts), ("positive", "positive_mask", seconds)):
            batch[name], batch[mask] = padded([np.concatenate((start, one, end)) for one in texts], self._pad)
        return {name: torch.from_numpy(value) for name, value in batch.items()}


def _normalised(x: Tensor) -> Tensor:
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
