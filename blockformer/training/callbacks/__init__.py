"""Callbacks: metrics, evaluations, figures of layers, pictures, progress, mean weights, checkpoints, when to stop."""

from blockformer.training.callbacks.attention_maps import AttentionMaps
from blockformer.training.callbacks.checkpoints import Checkpoints
from blockformer.training.callbacks.evaluations import Evaluations
from blockformer.training.callbacks.layer_figures import LayerFigures
from blockformer.training.callbacks.metrics import MetricsLogger
from blockformer.training.callbacks.non_finite import NonFiniteError, NonFiniteGuard
from blockformer.training.callbacks.predictions import Predictions
from blockformer.training.callbacks.progress import EvaluationPhase, RunProgress
from blockformer.training.callbacks.random_state import RandomState
from blockformer.training.callbacks.range_test import RangeTest
from blockformer.training.callbacks.signals import InterruptedRun, StopOnSignal
from blockformer.training.callbacks.spikes import Spikes
from blockformer.training.callbacks.trace import StepTrace
from blockformer.training.callbacks.warm_start import WarmStart
from blockformer.training.callbacks.weight_average import WeightAverage

__all__ = [
    "AttentionMaps",
    "Checkpoints",
    "EvaluationPhase",
    "Evaluations",
    "InterruptedRun",
    "LayerFigures",
    "MetricsLogger",
    "NonFiniteError",
    "NonFiniteGuard",
    "Predictions",
    "RandomState",
    "RangeTest",
    "RunProgress",
    "Spikes",
    "StepTrace",
    "StopOnSignal",
    "WarmStart",
    "WeightAverage",
]
