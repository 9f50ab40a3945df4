"""`train()`: `blockformer fit` for callers in Python."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockformer.training.fit_arguments import Given, Settings, fit_arguments
from blockformer.training.lightning_cli import TrainingCLI
from blockformer.training.output import kept_output
from blockformer.training.process_state import quiet_process
from registry.recipe import Overrides


def train(
    recipe: str | Path | Mapping[str, Any] | None, overrides: Overrides = (), settings: Mapping[str, Any] | None = None
) -> Path:
    """Train a recipe as `blockformer fit` does.

        folder = train("gpt2", {"decoder.depth": 4}, {"trainer.max_steps": 200, "data.dataset": "docstrings"})

    Args:
        recipe: a file, the name of a built-in recipe, or a mapping; None: that of the setting `init_from`.
        overrides: ``{"decoder.depth": 2}`` or ``["decoder.depth=2"]``.
        settings: options of `fit` by their names, without the dashes.

    Returns:
        The run's folder, with `metrics.jsonl`, `checkpoints/` and the rest.

    Raises:
        RecipeError: something is wrong with the recipe.
        UserError, DataError: something is wrong with the settings or the data.
        NonFiniteError: the run diverged.
    """
    given = Given(overrides=overrides, settings=_nested(settings or {}))
    given.init_from = given.settings.pop("init_from", None)
    given.decay_from = given.settings.pop("decay_from", None)
    configs = given.settings.pop("config", ())
    with quiet_process(), kept_output():
        for config in [configs] if isinstance(configs, str | Path) else configs:
            given.add_config(Path(config))
        given.source = recipe
        return TrainingCLI(fit_arguments("fit", given)).folder


def _nested(settings: Mapping[str, Any]) -> Settings:
    """``{"trainer.max_steps": 200}`` as ``{"trainer": {"max_steps": 200}}``."""
    result: Settings = {}
    for name, value in settings.items():
        *groups, key = name.split(".")
        place = result
        for group in groups:
            place = place.setdefault(group, {})
        place[key] = str(value) if isinstance(value, Path) else value
    return result
