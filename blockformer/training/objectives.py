"""Training objectives: how the model is called on a batch, and which logits are scored against which targets."""

from typing import ClassVar

from torch import Tensor, nn

from blockformer.training.score import sums_of

Batch = dict[str, Tensor]


class Objective:
    """Base class of the objectives.

    Args:
        label_smoothing: share of each target's probability that is spread over the vocabulary, in training only;
            validation losses are never smoothed.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    """The kind of model that it trains."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed loss, with label smoothing in training, and the sums of a :class:`Score`."""
        smoothing = self.label_smoothing if model.training else 0.0
        return sums_of(self.logits(model, batch), batch["targets"], smoothing, batch.get("bytes"), self.tokens(batch))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(B, T, V) logits, one row for each place of ``batch["targets"]``."""
        raise NotImplementedError

    def tokens(self, batch: Batch) -> Tensor:
        """Number of tokens that the model reads in this batch, without padding."""
        raise NotImplementedError


class CausalLM(Objective):
    """Next-token prediction over packed documents that do not attend to each other (Radford et al. 2018)."""

    name = "causal_lm"
    kind = "decoder_only"

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["tokens"], attention_mask=batch.get("attention_mask"), documents=batch.get("documents"))

    def tokens(self, batch: Batch) -> Tensor:
        return _token_count(batch["tokens"], batch.get("attention_mask"))


class MaskedLM(Objective):
    """Prediction of masked tokens from both sides (Devlin et al. 2019, arXiv:1810.04805); the data does the masking."""

    name = "masked_lm"
    kind = "encoder_only"

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        optional = {key: batch[key] for key in ("segments", "attention_mask", "documents") if key in batch}
        return model(batch["tokens"], **optional)

    def tokens(self, batch: Batch) -> Tensor:
        return _token_count(batch["tokens"], batch.get("attention_mask"))


class SequenceToSequence(Objective):
    """Prediction of the next target token from the source and the target's earlier tokens (Vaswani et al. 2017)."""

    name = "seq2seq"
    kind = "encoder_decoder"

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        masks = {key: batch.get(key) for key in ("source_mask", "target_mask")}
        return model(batch["source"], batch["target"], **masks)

    def tokens(self, batch: Batch) -> Tensor:
        source = _token_count(batch["source"], batch.get("source_mask"))
        return source + _token_count(batch["target"], batch.get("target_mask"))


OBJECTIVES: dict[str, type[Objective]] = {cls.name: cls for cls in (CausalLM, MaskedLM, SequenceToSequence)}


def objective_for(kind: str, name: str | None = None, label_smoothing: float = 0.0) -> Objective:
    """The objective of this name, or the one for this kind of model.

    Args:
        kind: the model's kind: `decoder_only`, `encoder_only` or `encoder_decoder`.
        name: an objective's name; None: the one for the kind.
        label_smoothing: share of each target's probability that is spread over the vocabulary in training.

    Raises:
        ValueError: the objective cannot train this kind of model, or label_smoothing is out of range.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing {label_smoothing} must be at least 0 and below 1")
    by_kind = {cls.kind: cls for cls in OBJECTIVES.values()}
    if kind not in by_kind:
        raise ValueError(f"no objective trains a {kind} model; one of these can be trained: {', '.join(by_kind)}")
    cls = OBJECTIVES[name] if name else by_kind[kind]
    if cls.kind != kind:
        raise ValueError(
            f"objective {cls.name} trains {cls.kind} models, and this one is {kind}: use {by_kind[kind].name}"
        )
    return cls(label_smoothing)


def _token_count(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Number of tokens where mask (True: a token, False: padding) allows them; without a mask all."""
    return tokens.new_tensor(tokens.numel()) if mask is None else mask.sum()
