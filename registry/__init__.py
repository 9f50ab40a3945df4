"""Name a block, read its recipe schema off its signature, build it from a recipe. Imports neither torch nor blocks."""

from registry.capabilities import ABILITIES, PLACES, Ability, Capabilities, Cut, Place, UnfitError
from registry.core import Block, Entry, Parameter, entries, entry_of, register, slots
from registry.errors import Mark, Problem, RecipeError, RegistrationError
from registry.plugins import PluginError
from registry.recipe import Recipe, find, load_recipe
from registry.shelf import installed
from registry.spec import AsRecipe, Spec, parse, spec_of
from registry.types import Depth, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Probability, Runtime, Share

__all__ = [
    "ABILITIES",
    "PLACES",
    "Ability",
    "AsRecipe",
    "Block",
    "Capabilities",
    "Cut",
    "Depth",
    "Entry",
    "Mark",
    "NonNegative",
    "NonNegativeFloat",
    "Parameter",
    "Place",
    "PluginError",
    "Positive",
    "PositiveFloat",
    "Probability",
    "Problem",
    "Recipe",
    "RecipeError",
    "RegistrationError",
    "Runtime",
    "Share",
    "Spec",
    "UnfitError",
    "entries",
    "entry_of",
    "find",
    "installed",
    "load_recipe",
    "parse",
    "register",
    "slots",
    "spec_of",
]
