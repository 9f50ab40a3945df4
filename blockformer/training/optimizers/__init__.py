"""Optimizers and schedules of the learning rate, as registered components."""

from blockformer.training.optimizers import adafactor, adamw, lion, muon, schedule_free, schedules, sgd  # noqa: F401
from blockformer.training.optimizers.base import OptimizerComponent, Schedule, Sharding
from blockformer.training.optimizers.settings import OPTIMIZER, OptimizerSettings, chosen_components

__all__ = ["OPTIMIZER", "OptimizerComponent", "OptimizerSettings", "Schedule", "Sharding", "chosen_components"]
