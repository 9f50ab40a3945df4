"""Options that reach into a mapping, such as `--data.sources.code.weight 3`."""

import json
from collections.abc import Mapping
from typing import Any

from blockformer.errors import UserError
from blockformer.training.given import Given
from registry.strict_yaml import as_plain, parse_text

COMPONENTS = ("objective.of",)
"""The options that hold a component with its parameters, or its name alone."""
MAPPINGS = ("data.sources", "evaluations", *COMPONENTS)
"""The options that hold a mapping of mappings, which jsonargparse would replace as a whole."""


def fold_nested(given: Given) -> None:
    """Lay options that reach into a mapping over the mapping of the command line, the configuration or the checkpoint.

    Args:
        given: what the user gave; its options and settings then have the whole mapping.

    Raises:
        UserError: an option reaches into what is no mapping, or has no value.
        RecipeError: a value is not YAML.
    """
    for name in MAPPINGS:
        changes, rest = _taken(given.options or [], f"--{name}")
        whole = given.value(name)
        if not changes and not isinstance(whole, str):
            continue
        group, _, key = name.rpartition(".")
        whole = _plain(whole, f"--{name}") if isinstance(whole, str) else json.loads(json.dumps(whole or {}))
        whole = {"type": whole} if isinstance(whole, str) and name in COMPONENTS else whole
        for option, value in sorted(changes.items(), key=lambda change: change[0].count(".")):  # the outer ones first
            _set(whole, name, option.removeprefix(f"--{name}.").split("."), _plain(value, option))
        text = json.dumps(whole)
        if given.options is not None:
            given.options = [*rest, f"--{name}", text]
        (given.settings.setdefault(group, {}) if group else given.settings)[key] = json.loads(text)


def component_of(given: Given, name: str) -> Any:
    """The value of an option of :data:`COMPONENTS`, as a name or a mapping; None: it is not given."""
    value = given.value(name)
    return _plain(value, f"--{name}") if isinstance(value, str) else value


def _taken(options: list[str], name: str) -> tuple[dict[str, str], list[str]]:
    """The options that reach into one, with their values, and the other words without the one itself.

    Raises:
        UserError: an option has no value.
    """
    found, rest, items = dict[str, str](), list[str](), iter(options)
    for item in items:
        option, equals, value = item.partition("=")
        if option != name and not option.startswith(f"{name}."):
            rest.append(item)
            continue
        known = value if equals else next(items, None)
        if known is None:
            raise UserError(f"{option} requires a value")
        if option != name:
            found[option] = known
    return found, rest


def _plain(text: str, option: str) -> Any:
    return as_plain(parse_text(text, option, lines=False))


def _set(whole: Any, name: str, path: list[str], value: Any) -> None:
    *parents, last = path
    node, where = whole, name
    for key in parents:
        _check(node, where)
        node, where = node.setdefault(key, {}), f"{where}.{key}"
    _check(node, where)
    node[last] = value


def _check(node: Any, where: str) -> None:
    if not isinstance(node, Mapping):
        raise UserError(f"{where} is {node!r} and not a mapping of options")
