"""Objectives: what a model learns to predict, as registered components."""

from blockformer.training.objectives.base import Objective, Prompt, TokenObjective
from blockformer.training.objectives.causal_lm import CausalLM
from blockformer.training.objectives.classification import Classification
from blockformer.training.objectives.contrastive import Contrastive
from blockformer.training.objectives.denoising import Denoising
from blockformer.training.objectives.distillation import Distillation
from blockformer.training.objectives.fill_in_the_middle import FillInTheMiddle
from blockformer.training.objectives.masked_lm import MaskedLM
from blockformer.training.objectives.multi_token_prediction import MultiTokenPrediction
from blockformer.training.objectives.prefix_lm import PrefixLM
from blockformer.training.objectives.regression import Regression
from blockformer.training.objectives.replaced_token_detection import ReplacedTokenDetection
from blockformer.training.objectives.seq2seq import SequenceToSequence
from blockformer.training.objectives.settings import (
    OBJECTIVE,
    ObjectiveSettings,
    check_kind,
    check_model,
    chosen_objective,
    default_objective,
    objective_for,
    paths_read,
)
from blockformer.training.objectives.span_corruption import MixtureOfDenoisers, SpanCorruption

__all__ = [
    "OBJECTIVE",
    "CausalLM",
    "Classification",
    "Contrastive",
    "Denoising",
    "Distillation",
    "FillInTheMiddle",
    "MaskedLM",
    "MixtureOfDenoisers",
    "MultiTokenPrediction",
    "Objective",
    "ObjectiveSettings",
    "PrefixLM",
    "Prompt",
    "Regression",
    "ReplacedTokenDetection",
    "SequenceToSequence",
    "SpanCorruption",
    "TokenObjective",
    "check_kind",
    "check_model",
    "chosen_objective",
    "default_objective",
    "objective_for",
    "paths_read",
]
