"""Training objectives: how the model is called on a batch, and which logits are scored against which targets."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from blockformer.training.score import sums_of
from blockformer.training.vocabulary_loss import LossTerms, loss_of_hidden
from blocks.models.base import Model

Batch = dict[str, Tensor]


class Objective(ABC):
    """Base class of the objectives.

    Args:
        label_smoothing: share of each target's probability that is spread over the vocabulary, in training only;
            validation losses are never smoothed.
        z_loss: factor of log(Z)^2, where Z is the sum of exp(logits); in training only.
        chunk: rows whose logits exist at once; None: by the vocabulary; 0: all.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    """The kind of model that it trains."""

    def __init__(self, label_smoothing: float = 0.0, z_loss: float = 0.0, chunk: int | None = None) -> None:
        self.label_smoothing, self.z_loss, self.chunk = label_smoothing, z_loss, chunk

    def __call__(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed loss, in training with label smoothing and z-loss, and the sums of a :class:`Score`."""
        terms = LossTerms(self.label_smoothing, self.z_loss) if model.training else LossTerms()
        targets = batch["targets"]
        loss, found = loss_of_hidden(model, self.hidden(model, batch), targets, terms, self.chunk)
        return loss, sums_of(found, targets, batch.get("bytes"), self.tokens(batch))

    @abstractmethod
    def hidden(self, model: Model, batch: Batch) -> Tensor:
        """(B, T, D) vectors before the model's head, one for each place of ``batch["targets"]``."""

    def logits(self, model: Model, batch: Batch) -> Tensor:
        """(B, T, V) logits, one row for each place of ``batch["targets"]``."""
        return model.logits(self.hidden(model, batch))

    @abstractmethod
    def tokens(self, batch: Batch) -> Tensor:
        """Number of tokens that the model reads in this batch, without padding."""


class CausalLM(Objective):
    """Next-token prediction over packed documents that do not attend to each other (Radford et al. 2018)."""

    name = "causal_lm"
    kind = "decoder_only"

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        masks = {key: batch.get(key) for key in ("attention_mask", "documents")}
        return model(batch["tokens"], **masks, hidden=True)

    def tokens(self, batch: Batch) -> Tensor:
        return _token_count(batch["tokens"], batch.get("attention_mask"))


class MaskedLM(Objective):
    """Prediction of masked tokens from both sides (Devlin et al. 2019, arXiv:1810.04805); the data does the masking."""

    name = "masked_lm"
    kind = "encoder_only"

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        optional = {key: batch[key] for key in ("segments", "attention_mask", "documents") if key in batch}
        return model(batch["tokens"], **optional, hidden=True)

    def tokens(self, batch: Batch) -> Tensor:
        return _token_count(batch["tokens"], batch.get("attention_mask"))


class SequenceToSequence(Objective):
    """Prediction of the next target token from the source and the target's earlier tokens (Vaswani et al. 2017)."""

    name = "seq2seq"
    kind = "encoder_decoder"

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        masks = {key: batch.get(key) for key in ("source_mask", "target_mask")}
        return model(batch["source"], batch["target"], **masks, hidden=True)

    def tokens(self, batch: Batch) -> Tensor:
        source = _token_count(batch["source"], batch.get("source_mask"))
        return source + _token_count(batch["target"], batch.get("target_mask"))


OBJECTIVES: dict[str, type[Objective]] = {cls.name: cls for cls in (CausalLM, MaskedLM, SequenceToSequence)}


def objective_for(
    kind: str, name: str | None = None, label_smoothing: float = 0.0, z_loss: float = 0.0, chunk: int | None = None
) -> Objective:
    """The objective of this name, or the one for this kind of model.

    Args:
        kind: the model's kind: `decoder_only`, `encoder_only` or `encoder_decoder`.
        name: an objective's name; None: the one for the kind.
        label_smoothing: share of each target's probability that is spread over the vocabulary in training.
        z_loss: factor of log(Z)^2 in training, where Z is the sum of exp(logits).
        chunk: rows whose logits exist at once; None: by the vocabulary; 0: all.

    Raises:
        ValueError: the objective cannot train this kind of model, or a value is out of range.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing {label_smoothing} must be at least 0 and below 1")
    if not 0 <= z_loss < math.inf:
        raise ValueError(f"z_loss {z_loss} must be a number from 0")
    if chunk is not None and chunk < 0:
        raise ValueError(f"loss_chunk {chunk} must be at least 0, which is for all rows at once")
    by_kind = {cls.kind: cls for cls in OBJECTIVES.values()}
    if kind not in by_kind:
        raise ValueError(f"no objective trains a {kind} model; one of these can be trained: {', '.join(by_kind)}")
    cls = OBJECTIVES[name] if name else by_kind[kind]
    if cls.kind != kind:
        raise ValueError(
            f"objective {cls.name} trains {cls.kind} models, and this one is {kind}: use {by_kind[kind].name}"
        )
    return cls(label_smoothing, z_loss, chunk)


def _token_count(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Number of tokens where mask (True: a token, False: padding) allows them; without a mask all."""
    return tokens.new_tensor(tokens.numel()) if mask is None else mask.sum()
