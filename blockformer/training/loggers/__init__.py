"""Loggers: metrics files, and Weights & Biases."""

from blockformer.training.loggers.file_logger import FileLogger
from blockformer.training.loggers.wandb_logger import SafeWandbLogger

__all__ = ["FileLogger", "SafeWandbLogger"]
