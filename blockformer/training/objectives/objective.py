"""What the three objectives share."""

from typing import ClassVar

from torch import Tensor, nn

from blockformer.training.objectives.score import sums_of

Batch = dict[str, Tensor]


class Objective:
    """How a model is called on a batch, and what its logits are scored against.

    Args:
        label_smoothing: share of the target's probability that is spread over the vocabulary while training; what is
            reported of validation is without.
    """

    name: ClassVar[str]
    kind: ClassVar[str]

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed loss, with label smoothing while training, and the sums of a :class:`Score`."""
        smoothing = self.label_smoothing if model.training else 0.0
        return sums_of(self.logits(model, batch), batch["targets"], smoothing, batch.get("bytes"), self.tokens(batch))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(B, T, V) logits for the places of ``batch["targets"]``."""
        raise NotImplementedError

    def tokens(self, batch: Batch) -> Tensor:
        """How many tokens the model reads in this batch, padding not counted."""
        raise NotImplementedError


def count(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """How many of these tokens are not padding; mask is True for a token."""
    return tokens.new_tensor(tokens.numel()) if mask is None else mask.sum()
