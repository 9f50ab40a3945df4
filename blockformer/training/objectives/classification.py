"""Prediction of the class of a text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from blockformer.data.samples import Batch
from blockformer.training.objectives.base import Smoothing
from blockformer.training.objectives.pooled import LabelledObjective
from blockformer.training.objectives.vocabulary_loss import LossTerms, loss_of_logits
from blockformer.training.score import IGNORED, Score, sums_of
from blocks.models.base import Model
from registry import register
from registry.text import shortened

if TYPE_CHECKING:
    from torchmetrics import Metric

_SHOWN = 5


@register("classification")
class Classification(LabelledObjective):
    """Prediction of the class of a text, or of a pair of texts, by a head that pools, with an output for each class.

    Figures are the mean cross-entropy in nats (`loss`), `accuracy`, and in evaluations the mean of the F1 scores of the
    classes (`f1`, macro-averaged).

    Args:
        label_smoothing: Share of each target's probability that is spread over the classes, in training only.
    """

    paper = "Devlin et al., 2019, BERT: Pre-training of Deep Bidirectional Transformers, arXiv:1810.04805, section 4.1"
    formula = "loss = -log softmax(z)_c; z = head(x)"
    forms = ("classes",)

    def __init__(self, *, label_smoothing: Smoothing = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def targets(self, labels: NDArray[np.float64]) -> NDArray:
        return labels.astype(np.int64)

    def refusal(self, model: Model, classes: Sequence[str]) -> str | None:
        if len(classes) == 1:
            return f"all texts have the class {classes[0]!r}: data.label_column needs two or more"
        if classes and len(classes) != model.head.values:
            shown = ", ".join([*map(shortened, classes[:_SHOWN]), *(["..."] if len(classes) > _SHOWN else [])])
            return (
                f"the data have {len(classes)} classes ({shown}) and the recipe's head gives {model.head.values} "
                f"outputs: set --recipe.head.outputs {len(classes)}, or check data.label_column"
            )
        return None

    def __call__(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._scored(self.logits(model, batch), batch, smoothed=model.training)

    def _scored(self, logits: Tensor, batch: Batch, *, smoothed: bool) -> tuple[Tensor, Tensor]:
        terms = LossTerms(self.label_smoothing) if smoothed else LossTerms()
        loss, found = loss_of_logits(logits, batch["targets"], terms)
        return loss, sums_of(found, batch["targets"], None, self.tokens(batch))

    def figures(self, sums: Tensor, model: Model) -> dict[str, float]:
        found = Score.of(sums).metrics()
        return {name: found[name] for name in ("loss", "accuracy")}

    def metrics(self, model: Model) -> dict[str, "Metric"]:
        from torchmetrics.classification import MulticlassF1Score  # takes seconds to import

        return {"f1": MulticlassF1Score(model.head.values, average="macro", validate_args=False)}

    def evaluate(self, model: Model, batch: Batch, metrics: Mapping[str, "Metric"]) -> Tensor:
        logits, scored = self.logits(model, batch), batch["targets"] != IGNORED
        metrics["f1"].update(logits[scored].argmax(-1), batch["targets"][scored])
        return self._scored(logits, batch, smoothed=False)[1]

    def written(self, predicted: Tensor, wanted: Tensor, data: Any) -> dict[str, Any] | None:
        names = getattr(data, "classes", ())
        found = {"predicted": int(predicted), "target": int(wanted)}
        if found["target"] < 0:
            return None
        correct = found["predicted"] == found["target"]
        return {key: names[one] if names else one for key, one in found.items()} | {"correct": correct}
