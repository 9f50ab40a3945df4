"""Register blocks, derive recipe schemas from signatures, build from recipes. Imports neither torch nor blocks."""

from registry.capabilities import ABILITIES, PLACES, Ability, Capabilities, Cut, Place, UnfitError
from registry.errors import Mark, Problem, RecipeError, RegistrationError
from registry.plugins import PluginError
from registry.recipe import Recipe, builtin_recipes, find_recipe, load_recipe
from registry.registration import Block, Entry, Parameter, entries, entry_of, option_slots, register, slot_named, slots
from registry.slots import Slot
from registry.spec import AsRecipe, Spec, parse, spec_of
from registry.types import (
    Depth,
    FirstDefault,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Probability,
    Runtime,
    Share,
)

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
    "FirstDefault",
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
    "Slot",
    "Spec",
    "UnfitError",
    "builtin_recipes",
    "entries",
    "entry_of",
    "find_recipe",
    "load_recipe",
    "option_slots",
    "parse",
    "register",
    "slot_named",
    "slots",
    "spec_of",
]
