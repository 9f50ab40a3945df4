"""Where a recipe can come from: a file, a name, an imported folder, a run, a checkpoint."""

import os.path
from collections.abc import Sequence
from pathlib import Path

from blockformer.errors import UserError
from registry import Recipe, builtin_recipes, load_recipe

RECIPE, YAML = "recipe.yaml", (".yaml", ".yml")


def recipe_of(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a text on the command line means, changed by ``key=value`` overrides.

    Args:
        source: a recipe's file, the name of an installed one, a folder that holds a ``recipe.yaml`` (a run's, or an
            imported one), or a checkpoint, whose tensors are not read.
        overrides: ``decoder.depth=2``, laid over in order.

    Raises:
        UserError: the folder or the checkpoint holds no recipe.
        RecipeError: the recipe is wrong, or there is none.
    """
    path = Path(source)
    if source in builtin_recipes() or path.suffix in YAML or not os.path.exists(source):  # noqa: PTH110 (a long text is no path, and no error)
        return load_recipe(source, overrides)
    if not path.is_dir():
        from blockformer.assembly.checkpoint import read_metadata  # torch only where a checkpoint is read

        return load_recipe(read_metadata(path)["recipe"], overrides)
    if not (path / RECIPE).is_file():
        raise UserError(f"{source}: is a folder without a {RECIPE}, so neither a run nor an imported model")
    return load_recipe(path / RECIPE, overrides)
