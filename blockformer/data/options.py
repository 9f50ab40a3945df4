"""Check the options of the chosen dataset, which are written on one level with the settings that all datasets share."""

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import ValidationError

from blockformer.data.datasets.base import COMMON, Dataset
from blockformer.errors import DataError
from registry import Entry, entries
from registry.errors import nearest, quoted
from registry.spec import parse

SLOT = Dataset.slot.name


def dataset_named(name: Any) -> Entry:
    """The registered dataset of this name.

    Raises:
        DataError: there is none.
    """
    known = entries(SLOT)
    if not isinstance(name, str) or name not in known:
        similar = nearest(name, known) if isinstance(name, str) else ""
        advice = similar or f"known: {', '.join(known)}; a plug-in's needs --plugin MODULE"
        raise DataError(f"data.dataset: there is no dataset {quoted(name)}; {advice}")
    return known[name]


def class_of(name: Any) -> type[Dataset]:
    """The class of the dataset of this name.

    Raises:
        DataError: there is none.
    """
    return cast("type[Dataset]", dataset_named(name).block)


def default_dataset(kind: str) -> str:
    """The dataset for a kind of model where none is named."""
    return "cldr" if kind == "encoder_decoder" else "docstrings"


def make_dataset(name: str, options: Mapping[str, Any]) -> Dataset:
    """The dataset with these options.

    Raises:
        DataError: it has no such option, or a value is wrong; all problems are named.
    """
    entry = dataset_named(name)
    problems = [unknown_option(key, name) for key in options if key not in entry.parameters]
    known = {key: value for key, value in options.items() if key in entry.parameters}
    problems += wrong_values(name, known)
    if problems:
        raise DataError("; ".join(problems))
    return parse(SLOT, {"type": name, **known})()


def unknown_option(key: str, name: str) -> str:
    """What to do about a setting that a dataset does not have."""
    entry = dataset_named(name)
    if key in COMMON:
        return f"data.{key} has no effect with dataset {name!r}; remove it"
    if readers := options_elsewhere(name).get(key):
        return f"data.{key} is a setting of dataset {readers}, and has no effect with {name!r}; remove it"
    known = [*entry.parameters, *(common for common in COMMON if common not in class_of(name).unused)]
    advice = nearest(key, known) or f"known: {', '.join(known)}"
    return f"there is no setting data.{key}; {advice}"


def options_elsewhere(name: str) -> dict[str, str]:
    """The options that a dataset does not have and others do, each with those that have it, in words."""
    known = dataset_named(name).parameters
    found: dict[str, list[str]] = {}
    for other, entry in entries(SLOT).items():
        for key in entry.parameters:
            if key not in known:
                found.setdefault(key, []).append(repr(other))
    return {key: " and ".join(readers) for key, readers in found.items()}


def wrong_values(name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values of options that a dataset has: one message for each."""
    try:
        parse(SLOT, {"type": name, **options})
    except ValidationError as error:
        return _messages(error)
    return []


def list_options() -> dict[str, bool]:
    """Every option of a dataset that takes a list, and whether it also takes a text alone."""
    parameters = [parameter for entry in entries(SLOT).values() for parameter in entry.parameters.values()]
    found = {parameter.name: _members(unlimited(parameter.annotation)) for parameter in parameters}
    return {name: str in members for name, members in found.items() if {list, tuple} & {*map(get_origin, members)}}


def unlimited(annotation: Any) -> Any:
    """A type without the limits of its values, which :func:`make_dataset` checks."""
    if get_origin(annotation) is Annotated:
        return unlimited(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(unlimited(member) for member in get_args(annotation))]  # noqa: UP007
    return annotation


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _messages(error: ValidationError) -> list[str]:
    """One message for each option; of the members of a union, what each would take."""
    found: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for details in error.errors(include_url=False):
        key = str(details["loc"][0])
        values.setdefault(key, details["input"])
        found.setdefault(key, []).append(_WANTED.get(details["type"]) or _expected(details["msg"]))
    return [
        f"data.{key} must be {' or '.join(dict.fromkeys(wanted))}, not {quoted(values[key])}"
        for key, wanted in found.items()
    ]


_WANTED = {"int_type": "an integer", "float_type": "a number", "bool_type": "true or false", "string_type": "text"}
_WANTED |= {"list_type": "a list", "tuple_type": "a list"}


def _expected(message: str) -> str:
    return message.removeprefix("Input should be ").removeprefix("Input should ")
