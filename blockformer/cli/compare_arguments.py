"""The arguments of `compare`: its own, settings of the study, and options that go to each run."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

GROUPS = ("data", "optimizer", "trainer", "model")
DECIDED = ("name", "root", "variant", "group", "job_type", "about")
"""Options `--run.*` that the study decides for each run."""


def split_arguments(
    arguments: Sequence[str], own_options: Sequence[str]
) -> tuple[list[str], dict[str, Any], list[str]]:
    """Our own arguments, settings of `fit` as changes of the study, and options that go to each run as they are.

    Args:
        arguments: what follows `compare`.
        own_options: options that are not settings, such as `--tier`.

    Raises:
        UserError: an option does not exist, has no value, is given twice, or is one that the study decides.
        RecipeError: a value is not YAML.
    """
    own: list[str] = []
    settings: dict[str, Any] = {}
    passed: list[tuple[str, str]] = []
    given: dict[str, str] = {}
    items: Iterator[str] = iter(arguments)
    for item in items:
        key, equals, value = item.partition("=")
        group = key.removeprefix("--").partition(".")[0]
        if not (key.startswith("--") and "." in key and group in (*GROUPS, "run")):
            _check_known(key, own_options)
            own.append(item)
            continue
        value = _value(key, value if equals else next(items, None), given)
        if group == "run":
            passed.append((key, value))
        else:
            from registry.strict_yaml import parse_text  # imported late: --help then needs no pydantic

            settings[f"fit.{key.removeprefix('--')}"] = parse_text(value, key, lines=False)
    if passed:
        _check_run_options([key.removeprefix("--run.") for key, _ in passed])
    return own, settings, [word for option in passed for word in option]


def _value(key: str, value: str | None, given: dict[str, str]) -> str:
    """The value of an option, which is noted."""
    from blockformer.errors import UserError
    from registry.text import shortened

    if value is None or value.startswith("--"):
        raise UserError(f"{shortened(key)} requires a value")
    if key in given and key != "--run.tags":
        raise UserError(f"{key} is given twice, {shortened(given[key])} and {shortened(value)}: give it once")
    given[key] = value
    return value


def _check_known(key: str, own_options: Sequence[str]) -> None:
    """Refuse an option that does not exist, and name the one that was meant."""
    if not key.startswith("--") or key == "--" or key in own_options:
        return
    from blockformer.errors import UserError
    from blockformer.studies.fit_settings import groups_of
    from blockformer.training.components import Components
    from blockformer.training.option_advice import advice
    from registry.text import shortened

    known = [f"--{group}.{name}" for group, names in groups_of(Components("docstrings")).items() for name in names]
    meant = advice(key, [*own_options, *known, *_run_options()])
    hint = f"did you mean {meant}?" if meant else "see blockformer compare --help"
    raise UserError(f"blockformer compare: there is no option {shortened(key)}; {hint}")


def _check_run_options(names: Sequence[str]) -> None:
    from blockformer.errors import UserError
    from registry.errors import nearest
    from registry.text import shortened

    known = [option.removeprefix("--run.") for option in _run_options()]
    for name in names:
        if name in DECIDED:
            raise UserError(f"--run.{name} cannot be set: the study sets it for each run")
        if name not in known:
            hint = nearest(name, known) or f"known: {', '.join(known)}"
            raise UserError(f"--run.{shortened(name)}: there is no such option; {hint}")


def _run_options() -> list[str]:
    from blockformer.training.run_folder import RunSettings

    return [f"--run.{field.name}" for field in fields(RunSettings) if field.name not in DECIDED]
