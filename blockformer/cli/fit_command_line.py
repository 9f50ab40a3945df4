"""The arguments of `fit`, `validate`, `test` and `predict`: reads recipes and configurations; Lightning reads the rest.

A recipe must not pass through jsonargparse, see :class:`blockformer.training.recipe_argument.RecipeArgument`.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from blockformer.cli.parser import last_value
from blockformer.errors import UserError
from blockformer.training.components import NAMING, list_options
from blockformer.training.fit_arguments import FitArguments, Given, fit_arguments
from blockformer.training.nested_options import COMPONENTS

SOURCES = {f"--{name.replace('_', sign)}": name for name in ("init_from", "decay_from") for sign in "-_"}
FILES = ("--recipe", "--config", "-c", "--data", *SOURCES)
LISTS = (
    "--run.tags",
    "--optimizer.train",
    "--optimizer.freeze",
    "--trainer.logger",
    "--trainer.callbacks",
    "--trainer.plugins",
)
"""Options that may be given several times, beside those of components."""
PLAIN_LISTS = (
    "--run.tags",
    "--optimizer.train",
    "--optimizer.freeze",
)  # one value of which jsonargparse does not take without brackets
OF_THE_FORK = ("optimizer.cooldown_steps", "optimizer.warmup_steps", "trainer.max_steps", "trainer.max_epochs")
NEEDED_EARLY = (
    *("ckpt_path", "run.name", "run.root", "run.variant", "evaluations"),
    *(*OF_THE_FORK, *NAMING, *COMPONENTS),
)
"""Options that are needed before the others are parsed, beside all of the data."""


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
        if not (key in FILES or key.startswith("--recipe.")):
            options.append(item)
            continue
        value = value if equals else next(items, None)
        if value is None:
            raise UserError(f"{key} requires a value")
        if key == "--recipe":
            sources.append(value)
        elif key.startswith("--recipe."):
            overrides.append(f"{key.removeprefix('--recipe.')}={value}")
        elif not _take_file(given, key, value):
            options += [key, value]  # for jsonargparse's error
    _refuse_twice([(key, value) for key, _, value in (item.partition("=") for item in overrides)], "--recipe.")
    options = _once(options)
    if len(sources) > 1:
        raise UserError(
            f"--recipe is given {len(sources)} times; to change a recipe, write a file with `extends: {sources[0]}`"
        )
    given.source = sources[0] if sources else given.source
    given.overrides, given.options = overrides, options
    for name in (*NEEDED_EARLY, *_data_options(options)):
        if (value := last_value(options, f"--{name}")) is not None:
            group, _, key = name.rpartition(".")
            (given.settings.setdefault(group, {}) if group else given.settings)[key] = value
    return fit_arguments(verb, given)


def _take_file(given: Given, key: str, value: str) -> bool:
    """Take in what `--init-from`, `--decay-from`, `--config` or `--data` names; False: `--data` names no file."""
    if (name := SOURCES.get(key)) is not None:
        known = [one for one in (getattr(given, name), value) if one is not None]
        _refuse_twice([(name.replace("_", "-"), one) for one in known], "--")
        setattr(given, name, value)
        return True
    if key == "--data" and not Path(value).is_file():
        return False
    given.add_config(Path(value), "data" if key == "--data" else None)
    return True


def _data_options(options: Sequence[str]) -> list[str]:
    """The settings of the data among options, such as `data.files`."""
    names = (item.partition("=")[0] for item in options)
    return [name.removeprefix("--") for name in dict.fromkeys(names) if name.startswith("--data.")]


def _once(options: Sequence[str]) -> list[str]:
    """The options, with a list that is given in several parts as jsonargparse reads it: the further ones end in a plus.

    Raises:
        UserError: an option that holds one value is given twice.
    """
    result, seen = list[str](), dict[str, str]()
    lists, plain = {*LISTS}, {*PLAIN_LISTS}
    for name, takes_text in list_options().items():
        lists.add(f"--{name}")
        plain |= set() if takes_text else {f"--{name}"}
    items = iter(options)
    for item in items:
        name, equals, value = item.partition("=")
        if not name.startswith("--") or name.startswith(tuple(f"{option}." for option in lists)):
            result.append(item)
            continue
        following = [] if equals else list(itertools.islice(items, 1))
        words = [value] if equals else following
        if name in seen and name not in lists:
            _refuse_twice([(name, seen[name]), (name, "".join(words))])
        again = "+" if name in seen else ""
        seen[name] = "".join(words)
        if name in plain and not again:
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
