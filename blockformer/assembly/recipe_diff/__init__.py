"""How two recipes differ, block by block."""

from blockformer.assembly.recipe_diff.changes import Change
from blockformer.assembly.recipe_diff.comparison import compare

__all__ = ["Change", "compare"]
