"""Prediction of a number for a text."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from blockformer.data.samples import Batch
from blockformer.training.objectives.pooled import LabelledObjective, sums_of_texts
from blockformer.training.score import Score
from blocks.models.base import Model
from registry import register

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("regression")
class Regression(LabelledObjective):
    """Prediction of a number for a text, or for a pair of texts, by a head that pools, with one output.

    Figures are the mean squared error (`loss`), its square root (`rmse`), and in evaluations the correlations of
    Pearson and Spearman with the scores (`pearson`, `spearman`).
    """

    paper = "Cer et al., 2017, SemEval-2017 Task 1: Semantic Textual Similarity, arXiv:1708.00055, section 3"
    formula = "loss = mean((head(x) - score)^2)"
    forms = ("scores",)

    def __init__(self) -> None:
        super().__init__()

    def targets(self, labels: NDArray[np.float64]) -> NDArray:
        return labels.astype(np.float32)

    def refusal(self, model: Model, classes: Sequence[str]) -> str | None:
        if model.head.values == 1:
            return None
        return (
            f"objective regression predicts one number and the recipe's head gives {model.head.values} outputs: "
            "set --recipe.head.outputs 1"
        )

    def logits(self, model: Model, batch: Batch) -> Tensor:
        """(B, 1) predictions."""
        return super().logits(model, batch)

    def __call__(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._scored(self._predictions(model, batch), batch)

    def _predictions(self, model: Model, batch: Batch) -> Tensor:
        """(B,) predictions, in float32."""
        return self.logits(model, batch)[:, 0].float()

    def _scored(self, predictions: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        scored = ~batch["targets"].isnan()
        loss = (predictions[scored] - batch["targets"][scored]).square().sum()
        return loss, sums_of_texts(loss, loss, scored.new_zeros(()), scored.sum(), self.tokens(batch))

    def figures(self, sums: Tensor, model: Model) -> dict[str, float]:
        loss = Score.of(sums).metrics()["loss"]
        return {"loss": loss, "rmse": math.sqrt(loss)}

    def metrics(self, model: Model) -> dict[str, "Metric"]:
        from torchmetrics import PearsonCorrCoef, SpearmanCorrCoef  # takes seconds to import

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Metric `SpearmanCorrcoef` will save")  # 8 bytes for each text
            return {"pearson": PearsonCorrCoef(), "spearman": SpearmanCorrCoef()}

    def evaluate(self, model: Model, batch: Batch, metrics: Mapping[str, "Metric"]) -> Tensor:
        predictions, scored = self._predictions(model, batch), ~batch["targets"].isnan()
        for metric in metrics.values() if scored.any() else ():
            metric.update(predictions[scored], batch["targets"][scored])
        return self._scored(predictions, batch)[1]

    def predict(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"predictions": self._predictions(model, batch), "targets": batch["targets"]}

    def written(self, predicted: Tensor, wanted: Tensor, data: Any) -> dict[str, Any] | None:
        return None if wanted.isnan() else {"predicted": predicted.item(), "target": wanted.item()}
