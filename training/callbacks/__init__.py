"""What happens around the training step: figures, progress, checkpoints, random states, and when to stop."""

from training.callbacks.checkpoints import Checkpoints
from training.callbacks.guard import Guard, NonFiniteError
from training.callbacks.meter import Meter
from training.callbacks.predictions import Predictions
from training.callbacks.progress import Progress
from training.callbacks.random_state import RandomState
from training.callbacks.signals import InterruptedRun, StopOnSignal
from training.callbacks.warm_start import WarmStart

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
