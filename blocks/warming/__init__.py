"""Warm starts: a model that begins with what a trained one of another recipe has learned."""

from blocks.warming.report import Fate, Report
from blocks.warming.starting import WarmStartError, warm_start

__all__ = ["Fate", "Report", "WarmStartError", "warm_start"]
