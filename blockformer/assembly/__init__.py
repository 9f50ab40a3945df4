"""From a recipe to a model: build, check, load weights, merge adapters, and start from those of another model."""

from blockformer.assembly.builder import build, check
from blockformer.assembly.loading import load
from blockformer.assembly.merging import merge
from blockformer.assembly.warm_start import warm_start
from registry import load_recipe

__all__ = ["build", "check", "load", "load_recipe", "merge", "warm_start"]
