"""What a model is trained to do: how it is called on a batch and how its answers are scored."""

from blockformer.training.objectives.causal import CausalLM
from blockformer.training.objectives.masked import MaskedLM
from blockformer.training.objectives.objective import Objective
from blockformer.training.objectives.score import Score
from blockformer.training.objectives.sequence import SequenceToSequence

OBJECTIVES: dict[str, type[Objective]] = {cls.name: cls for cls in (CausalLM, MaskedLM, SequenceToSequence)}


def objective_for(kind: str, name: str | None = None, label_smoothing: float = 0.0) -> Objective:
    """The objective of this name, or the usual one for a kind of model.

    Args:
        kind: the model's kind: `decoder_only`, `encoder_only` or `encoder_decoder`.
        name: an objective's name, or None for the kind's own.
        label_smoothing: share of the target's probability that is spread over the vocabulary while training.

    Raises:
        ValueError: the objective cannot train this kind of model, or smoothing is no share.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing {label_smoothing} must be at least 0 and below 1")
    fitting = {cls.kind: cls for cls in OBJECTIVES.values()}
    if kind not in fitting:
        raise ValueError(f"no objective trains a {kind} model; one of these can be trained: {', '.join(fitting)}")
    cls = OBJECTIVES[name] if name else fitting[kind]
    if cls.kind != kind:
        raise ValueError(
            f"objective {cls.name} trains {cls.kind} models, and this one is {kind}: {fitting[kind].name} fits"
        )
    return cls(label_smoothing)


__all__ = ["OBJECTIVES", "CausalLM", "MaskedLM", "Objective", "Score", "SequenceToSequence", "objective_for"]
