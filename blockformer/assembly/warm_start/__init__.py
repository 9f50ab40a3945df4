"""Warm starts: a model that begins with what a trained one of another recipe has learned."""

from blockformer.assembly.warm_start.api import WarmStartError, warm_start
from blockformer.assembly.warm_start.report import Fate, Report

__all__ = ["Fate", "Report", "WarmStartError", "warm_start"]
