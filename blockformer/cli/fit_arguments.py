"""The arguments of `fit`, `validate`, `test` and `predict`: reads recipes and configurations; Lightning reads the rest.

A recipe must not pass through jsonargparse, see :class:`blockformer.training.recipe_argument.RecipeArgument`.
"""

from collections.abc import Sequence
from pathlib import Path

from blockformer.errors import UserError
from blockformer.training.fit_arguments import FitArguments, Given, fit_arguments

INIT_FROM = ("--init-from", "--init_from")
NEEDED_EARLY = (
    *("ckpt_path", "run.name", "run.root", "run.variant"),
    *("data.dataset", "data.files", "data.validation_files", "data.test_files", "data.packages"),
)


def read_arguments(verb: str, arguments: Sequence[str]) -> FitArguments:
    """Read a command line.

    Args:
        verb: fit, validate, test or predict.
        arguments: what follows it.

    Raises:
        RecipeError: the recipe or a configuration file is wrong; the message lists every problem.
        UserError: an option has no value, there is no recipe, or no such checkpoint.
        PluginError: a module that a configuration file names cannot be imported.
    """
    given, options, overrides = Given(), list[str](), list[str]()
    sources: list[str] = []
    items = iter(arguments)
    for item in items:
        key, equals, value = item.partition("=")
        if not (key in ("--recipe", "--config", "-c", *INIT_FROM) or key.startswith("--recipe.")):
            options.append(item)
            continue
        value = value if equals else next(items, None)
        if value is None:
            raise UserError(f"{key} requires a value")
        if key == "--recipe":
            sources.append(value)
        elif key.startswith("--recipe."):
            overrides.append(f"{key.removeprefix('--recipe.')}={value}")
        elif key in INIT_FROM:
            given.init_from = value
        else:
            given.add_config(Path(value))
    if len(sources) > 1:
        raise UserError(
            f"--recipe is given {len(sources)} times; to change a recipe, write a file with `extends: {sources[0]}`"
        )
    given.source = sources[0] if sources else given.source
    given.overrides, given.options = overrides, options
    for name in NEEDED_EARLY:
        if (value := _last(options, f"--{name}")) is not None:
            group, _, key = name.rpartition(".")
            (given.settings.setdefault(group, {}) if group else given.settings)[key] = value
    return fit_arguments(verb, given)


def _last(options: Sequence[str], option: str) -> str | None:
    """The value that an option is given last."""
    found = None
    for place, item in enumerate(options):
        name, equals, value = item.partition("=")
        if name == option:
            found = value if equals else next(iter(options[place + 1 : place + 2]), None)
    return found
