"""Random batches for models of every kind, with their logits and loss."""

from typing import Any

import torch
from torch import Tensor

from blockformer.data.samples import Batch
from blockformer.training.objectives import objective_for
from blocks.models.base import Model


def random_batch(model: Model, batch: int, length: int, generator: torch.Generator | None = None) -> Batch:
    """(batch, length) random token ids and targets, without padding; a source is as long as the target.

    Where the model's head pools, there are (batch,) targets, and second texts of pairs.
    """

    def draw(size: int) -> Tensor:
        return torch.randint(size, (batch, length), generator=generator)

    drawn = {"targets": draw(model.vocab_size)}
    if model.kind == "encoder_decoder":
        embedding: Any = model.embedding
        return drawn | {"source": draw(embedding.table.shape[0]), "target": draw(model.vocab_size)}
    if model.pooled:
        drawn["targets"] = torch.randint(model.head.values, (batch,), generator=generator)
        drawn["positive"] = draw(model.vocab_size)
    if model.per_token:
        drawn["targets"] = torch.randint(model.head.values, (batch, length), generator=generator)
    return drawn | {"tokens": draw(model.vocab_size)}


def logits_of(model: Model, batch: Batch) -> Tensor:
    """(B, T, V) logits of a batch, or (B, outputs) where the model's head pools."""
    return objective_for(model.kind).logits(model, batch)


def mean_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy in nats, computed in float32; of a single output, without competitors, its mean square."""
    if logits.shape[-1] == 1:
        return logits.float().square().mean()
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2).float(), batch["targets"].flatten())
