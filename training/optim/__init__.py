"""The optimizer: which parameters decay, how the learning rate moves, and AdamW made from the settings."""

from training.optim.adamw import decay_groups, make_optimizer, renew
from training.optim.schedules import SCHEDULES, learning_rate
from training.optim.settings import OptimizerSettings

__all__ = ["SCHEDULES", "OptimizerSettings", "decay_groups", "learning_rate", "make_optimizer", "renew"]
