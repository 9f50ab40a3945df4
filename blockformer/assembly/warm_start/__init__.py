"""Warm starts: initialise a model from the weights of a trained model with another recipe."""

from blockformer.assembly.warm_start.report import ParameterReport, WarmStartReport
from blockformer.assembly.warm_start.transfer import WarmStartError, warm_start

__all__ = ["ParameterReport", "WarmStartError", "WarmStartReport", "warm_start"]
