"""The arguments of `fit`, `validate`, `test` and `predict`: reads recipes and configurations; Lightning reads the rest.

A recipe must not pass through jsonargparse, see :class:`blockformer.training.recipe_argument.RecipeArgument`.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from blockformer.errors import UserError
from blockformer.training.fit_arguments import FitArguments, Given, fit_arguments

INIT_FROM = ("--init-from", "--init_from")
LISTS = (  # options that may be given several times
    *("--data.files", "--data.validation_files", "--data.test_files", "--data.packages", "--run.tags"),
    *("--trainer.logger", "--trainer.callbacks", "--trainer.plugins"),
)
PLAIN_LISTS = ("--data.packages", "--run.tags")  # one value of which jsonargparse does not take without brackets
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
        UserError: an option has no value or is given twice, there is no recipe, or no such checkpoint.
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
            _refuse_twice([("init-from", known) for known in (given.init_from, value) if known is not None], "--")
            given.init_from = value
        else:
            given.add_config(Path(value))
    _refuse_twice([(key, value) for key, _, value in (item.partition("=") for item in overrides)], "--recipe.")
    options = _once(options)
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


def _once(options: Sequence[str]) -> list[str]:
    """The options, with a list that is given in several parts as jsonargparse reads it: the further ones end in a plus.

    Raises:
        UserError: an option that holds one value is given twice.
    """
    result, seen = list[str](), dict[str, str]()
    items = iter(options)
    for item in items:
        name, equals, value = item.partition("=")
        if not name.startswith("--") or name.startswith(tuple(f"{option}." for option in LISTS)):
            result.append(item)
            continue
        following = [] if equals else list(itertools.islice(items, 1))
        words = [value] if equals else following
        if name in seen and name not in LISTS:
            _refuse_twice([(name, seen[name]), (name, "".join(words))])
        again = "+" if name in seen else ""
        seen[name] = "".join(words)
        if name in PLAIN_LISTS and not again:
            words = [word if word.startswith(("[", "null")) else json.dumps([word]) for word in words]
        result += [f"{name}{again}={words[0]}"] if equals else [f"{name}{again}", *words]
    return result


def _refuse_twice(given: Sequence[tuple[str, str]], prefix: str = "") -> None:
    """Refuse a second value for an option.

    Raises:
        UserError: two of these names are equal.
    """
    seen: dict[str, str] = {}
    for name, value in given:
        if name in seen:
            raise UserError(f"{prefix}{name} is given twice, {seen[name]} and {value}: give it once")
        seen[name] = value


def _last(options: Sequence[str], option: str) -> str | None:
    """The value that an option is given last."""
    found = None
    for place, item in enumerate(options):
        name, equals, value = item.partition("=")
        if name == option:
            found = value if equals else next(iter(options[place + 1 : place + 2]), None)
    return found
