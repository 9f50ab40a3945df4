"""The figures of a validation or test, of all data and of each source."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from blockformer.data.mixed_samples import ORIGIN
from blockformer.data.samples import Batch
from blockformer.training.objectives import Objective
from blockformer.training.score import OF_SOURCES, TARGETS, no_sums
from blocks.models.base import Model


class SourceScores:
    """Sums and metrics of the batches evaluated so far.

    Args:
        objective: scores the batches.
        model: is evaluated.
        sources: names of the sources that are scored one by one, in the order of their numbers in batches.
        device: where the sums are kept.
    """

    def __init__(self, objective: Objective, model: Model, sources: Sequence[str], device: torch.device) -> None:
        self.objective, self.model, self.sources = objective, model, sources
        figures = len(objective.own_figures(model))
        self.sums = no_sums(device, figures).repeat(max(1, len(sources)), 1)
        self.metrics = {name: metric.to(device) for name, metric in objective.metrics(model).items()}

    def add(self, batch: Batch) -> None:
        """Evaluate a batch."""
        sums = self.objective.evaluate(self.model, batch, self.metrics)
        source = batch.get(ORIGIN, torch.zeros((), dtype=torch.int64, device=sums.device))
        self.sums.index_add_(0, source[None], sums[None])

    def figures(self, over_ranks: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """All figures; those of one source are called NAME/SOURCE.

        Args:
            over_ranks: adds up the sums of all processes.
        """
        sums = over_ranks(self.sums)
        found = self.objective.figures(sums.sum(0), self.model)
        found |= {name: metric.compute().item() for name, metric in self.metrics.items()}
        for source, own in zip(self.sources, sums, strict=False):
            scored = self.objective.figures(own, self.model) if own[TARGETS] else {}
            found |= {f"{name}/{source}": scored[name] for name in OF_SOURCES if name in scored}
        return found
