"""The optimizer: which parameters decay, how the learning rate moves, and AdamW made from the settings."""

from blockformer.training.optim.adamw import decay_groups, make_optimizer, renew
from blockformer.training.optim.schedules import SCHEDULES, learning_rate
from blockformer.training.optim.settings import OptimizerSettings

__all__ = ["SCHEDULES", "OptimizerSettings", "decay_groups", "learning_rate", "make_optimizer", "renew"]
