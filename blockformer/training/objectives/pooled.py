"""What objectives that score one row of outputs for each text have in common."""

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blockformer.data.labelled_rows import LabelledRows
from blockformer.data.samples import Batch, Samples, TokenizedText
from blockformer.training.objectives.base import Objective, token_count
from blockformer.training.score import exact_type
from blocks.models.base import Model
from registry import Ability


class PooledObjective(Objective):
    """An objective for models whose head pools: encoders, and decoders that pool at their last token."""

    kinds = ("encoder_only", "decoder_only")
    pooled = True

    def abilities(self, form: str) -> Mapping[Ability, str]:
        return {"padding": "texts of different lengths are padded"}

    def tokens(self, batch: Batch) -> Tensor:
        return token_count(batch["tokens"], batch.get("attention_mask"))


class LabelledObjective(PooledObjective):
    """An objective that predicts the label of each text."""

    def samples(self, text: TokenizedText) -> Samples:
        return LabelledRows(text, self.targets)

    @abstractmethod
    def targets(self, labels: NDArray[np.float64]) -> NDArray:
        """The targets of labels."""

    def logits(self, model: Model, batch: Batch) -> Tensor:
        given = {"attention_mask": batch.get("attention_mask")}
        table = getattr(getattr(model, "embedding", None), "segments", None)
        if model.kind == "encoder_only" and table is not None and table.num_embeddings > 1:
            given["segments"] = batch.get("segments")
        return model(batch["tokens"], **given)


def sums_of_texts(loss: Tensor, nll: Tensor, correct: Tensor, scored: Tensor, tokens: Tensor) -> Tensor:
    """The (6,) sums of a :class:`~blockformer.training.score.Score` over texts.

    Args:
        loss: summed, as minimised.
        nll: summed, without label smoothing.
        correct: number of texts whose prediction is right; 0 where none can be.
        scored: number of texts that are scored.
        tokens: number of tokens that the model read, without padding.
    """
    parts = (loss, nll, correct, scored, torch.zeros_like(tokens), tokens)
    return torch.stack([part.detach().to(exact_type(loss.device)) for part in parts])
