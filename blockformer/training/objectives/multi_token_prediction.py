"""Prediction of the next token and of tokens beyond it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blockformer.data.samples import Batch, Samples, TokenizedText
from blockformer.training.objectives.base import Chunk, Factor, Smoothing
from blockformer.training.objectives.causal_lm import CausalLM, PackedRows
from blockformer.training.objectives.vocabulary_loss import LossTerms, loss_of_hidden
from blockformer.training.score import IGNORED, sums_of
from blocks.models.base import Model
from registry import register

COUNTED = 3  # sums of a part: loss, negative log-likelihood and correct targets


@register("multi_token_prediction")
class MultiTokenPrediction(CausalLM):
    """Prediction of the next token, and by the recipe's `extra_predictions` of the tokens after it.

    The loss is that of the next token + extra_weight * the mean over the extra predictions of theirs. All losses are
    divided by the number of next tokens. What lies in another document, in padding or beyond the row is not predicted.
    Validation scores the next token alone, and reports the accuracy of each extra prediction, such as `accuracy_2` of
    the token two places ahead.

    Args:
        extra_weight: Weight of the mean of the extra losses, in training.
        separate_documents: Limit attention to the token's document in rows with several.
        label_smoothing: Share of each target's probability that is spread over the vocabulary, in training only.
        z_loss: Factor of log(Z)^2 in training, where Z is the sum of exp(logits), such as 1e-4.
        loss_chunk: Rows whose logits exist at once, which bounds the memory of the loss; null: by the vocabulary, 2^24
            logits; 0: all.
    """

    paper = "Gloeckle et al., 2024, arXiv:2404.19737; DeepSeek-AI, 2024, arXiv:2412.19437, section 2.2"
    formula = "loss = L_1 + extra_weight * mean_(i > 1) L_i; L_i = -(sum_t log p_i(x_(t+i) ∣ x_1, ..., x_t)) / N"
    forms = ("documents", "pairs", "ids")
    trains_extra = True

    def __init__(
        self,
        *,
        extra_weight: Factor = 0.3,
        separate_documents: bool = True,
        label_smoothing: Smoothing = 0.0,
        z_loss: Factor = 0.0,
        loss_chunk: Chunk = None,
    ) -> None:
        super().__init__(
            separate_documents=separate_documents, label_smoothing=label_smoothing, z_loss=z_loss, loss_chunk=loss_chunk
        )
        self.extra_weight = extra_weight

    def samples(self, text: TokenizedText) -> Samples:
        if text.paired:
            return super().samples(text)
        return PackedRows(text.documents, text.tokenizer, text.length)

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        return model(batch["tokens"], **self._masks(batch), hidden=True)

    def _masks(self, batch: Batch) -> dict[str, Tensor | None]:
        documents = batch.get("documents") if self.separate_documents else None
        return {"attention_mask": batch.get("attention_mask"), "documents": documents}

    def own_figures(self, model: Model) -> tuple[str, ...]:
        return tuple(f"accuracy_{ahead}" for ahead in range(2, 2 + extra_of(model)))

    def __call__(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        vectors = model(batch["tokens"], **self._masks(batch), hidden=True, extra=True)
        targets = batch["targets"]
        wanted = torch.stack([further_targets(targets, batch.get("documents"), n) for n in range(len(vectors))])
        weight = self.extra_weight / max(1, extra_of(model)) if model.training else 0.0
        loss = _Weighted(self.terms(model, batch), targets.numel(), extra_of(model), weight)
        total, found = loss_of_hidden(model, vectors, wanted, loss, self.loss_chunk)
        own = 2 * extra_of(model)
        sums = sums_of(found[:COUNTED], targets, batch.get("bytes"), self.tokens(batch))
        return total, torch.cat([sums, found[len(found) - own :], found[COUNTED : len(found) - own]])


def extra_of(model: Model) -> int:
    """Number of extra predictions of a model."""
    return len(getattr(model, "extra_predictions", ()))


def further_targets(targets: Tensor, documents: Tensor | None, further: int) -> Tensor:
    """(B, T) the targets this many places after those of the next token; -100 in another document or beyond the row.

    Args:
        targets: (B, T) ids of the next tokens; -100: not scored.
        documents: (B, T) int, equal for tokens of a document; None: a row is of one document.
        further: places; 0: the targets themselves.
    """
    if not further:
        return targets
    found = torch.full_like(targets, IGNORED)
    found[:, :-further] = targets[:, further:]
    if documents is not None:
        found[:, :-further].masked_fill_(documents[:, further:] != documents[:, :-further], IGNORED)
    return found


@dataclass(frozen=True)
class _Weighted:
    """The loss of rows of the next token, and with a weight of as many rows for each extra prediction.

    Args:
        terms: the loss of rows of one prediction.
        size: rows of each prediction.
        extra: number of extra predictions.
        weight: of each of them.
    """

    terms: LossTerms
    size: int
    extra: int
    weight: float

    def __call__(self, logits: Tensor, wanted: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        losses: list[Tensor] = []
        counts: dict[int, Tensor] = {}
        for number in range(rows.start // self.size, (rows.start + len(wanted) - 1) // self.size + 1):
            begin = max(0, number * self.size - rows.start)
            end = min(len(wanted), (number + 1) * self.size - rows.start)
            terms = replace(self.terms, groups=None) if number else self.terms
            loss, found = terms(logits[begin:end], wanted[begin:end], slice(rows.start + begin, rows.start + end))
            losses.append(loss * (self.weight if number else 1.0))
            counted = (wanted[begin:end] != IGNORED).sum().to(found)
            counts[number] = torch.stack([found[2], counted]) if number else found[1:]
        total = torch.stack(losses).sum()
        groups = 0 if self.terms.groups is None else self.terms.groups.shape[-1]
        exact = next(iter(counts.values()))
        first = counts.get(0, exact.new_zeros(2 + 2 * groups))
        others = [counts.get(number, exact.new_zeros(2)) for number in range(1, 1 + self.extra)]
        return total, torch.cat([total.detach().to(exact)[None], first, *others])
