"""Where figures go: files of our own, and Weights & Biases."""

from blockformer.training.loggers.files import FileLogger
from blockformer.training.loggers.weights_and_biases import WandbRun

__all__ = ["FileLogger", "WandbRun"]
