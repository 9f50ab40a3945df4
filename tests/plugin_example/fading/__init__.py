"""Importing this registers the blocks."""

from fading.mixer import FadingSum
from fading.norm import PeakNorm

__all__ = ["FadingSum", "PeakNorm"]
