"""`blockformer fit` for callers in Python."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def train(
    recipe: str | Path, overrides: Mapping[str, Any] | Sequence[str] = (), settings: Mapping[str, Any] | None = None
) -> Path:
    """Train a recipe as `blockformer fit` does.

        folder = train("gpt2", {"decoder.depth": 4}, {"trainer.max_steps": 200, "data.dataset": "docstrings"})

    Args:
        recipe: a file, or the name of an installed recipe.
        overrides: ``{"decoder.depth": 2}`` or ``["decoder.depth=2"]``.
        settings: options of `fit` by their names, without the dashes.

    Returns:
        The run's folder, with `metrics.jsonl`, `checkpoints/` and the rest.

    Raises:
        RecipeError: something is wrong with the recipe.
        UserError, DataError: something is wrong with the settings or the data.
        NonFiniteError: the run diverged.
    """
    from blockformer.cli.fit import run

    changes = (
        [f"{key}={_said(value)}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else overrides
    )
    options = [f"--{key}={_said(value)}" for key, value in (settings or {}).items()]
    return run(["fit", "--recipe", str(recipe), *(f"--recipe.{change}" for change in changes), *options]).folder


def _said(value: Any) -> str:
    """As a command line says it; JSON is YAML, so that lists and null need no spelling of their own."""
    return value if isinstance(value, str) else json.dumps(value)
