"""Callbacks: metrics, progress, weight average, checkpoints, random states, warm start, and reasons to stop."""

from blockformer.training.callbacks.checkpoints import Checkpoints
from blockformer.training.callbacks.metrics import MetricsLogger
from blockformer.training.callbacks.non_finite import NonFiniteError, NonFiniteGuard
from blockformer.training.callbacks.predictions import Predictions
from blockformer.training.callbacks.progress import EvaluationPhase, RunProgress
from blockformer.training.callbacks.random_state import RandomState
from blockformer.training.callbacks.signals import InterruptedRun, StopOnSignal
from blockformer.training.callbacks.warm_start import WarmStart
from blockformer.training.callbacks.weight_average import WeightAverage

__all__ = [
    "Checkpoints",
    "EvaluationPhase",
    "InterruptedRun",
    "MetricsLogger",
    "NonFiniteError",
    "NonFiniteGuard",
    "Predictions",
    "RandomState",
    "RunProgress",
    "StopOnSignal",
    "WarmStart",
    "WeightAverage",
]
