"""What happens around the training step: figures, progress, checkpoints, random states, and when to stop."""

from blockformer.training.callbacks.checkpoints import Checkpoints
from blockformer.training.callbacks.guard import Guard, NonFiniteError
from blockformer.training.callbacks.meter import Meter
from blockformer.training.callbacks.predictions import Predictions
from blockformer.training.callbacks.progress import Progress
from blockformer.training.callbacks.random_state import RandomState
from blockformer.training.callbacks.signals import InterruptedRun, StopOnSignal
from blockformer.training.callbacks.warm_start import WarmStart

__all__ = [
    "Checkpoints",
    "Guard",
    "InterruptedRun",
    "Meter",
    "NonFiniteError",
    "Predictions",
    "Progress",
    "RandomState",
    "StopOnSignal",
    "WarmStart",
]
