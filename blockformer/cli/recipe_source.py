"""Recipes named on the command line: a file, a built-in name, an imported folder, a run or a checkpoint."""

import os.path
from collections.abc import Sequence
from pathlib import Path

from blockformer.errors import UserError
from registry import Recipe, builtin_recipes, load_recipe

RECIPE, YAML = "recipe.yaml", (".yaml", ".yml")


def recipe_of(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe named on the command line and apply ``key=value`` overrides in order.

    Args:
        source: a recipe's file, the name of a built-in one, a folder with a ``recipe.yaml`` (of a run or an import), or
            a checkpoint, whose tensors are not read.
        overrides: such as ``decoder.depth=2``.

    Raises:
        UserError: the folder or the checkpoint has no recipe.
        RecipeError: the recipe is wrong or does not exist.
    """
    path = Path(source)
    if source in builtin_recipes() or path.suffix in YAML or not os.path.exists(source):  # noqa: PTH110 (long text: no error)
        return load_recipe(source, overrides)
    if not path.is_dir():
        from blockformer.assembly.loading import read_metadata, stored_recipe  # torch only where a checkpoint is read

        metadata = read_metadata(path)
        return load_recipe(metadata["recipe"], overrides) if overrides else stored_recipe(path, metadata)
    if not (path / RECIPE).is_file():
        raise UserError(f"{source}: the folder has no {RECIPE}, so it is neither a run nor an import")
    return load_recipe(path / RECIPE, overrides)
