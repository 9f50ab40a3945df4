"""What else a recipe may say about a block: its other options one by one, read off the signature."""

from collections.abc import Iterator
from dataclasses import replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import torch

from blockformer.conformance.subject import SMALL, Subject
from registry import Parameter, entries
from registry.diagnosis import unsupported_positions

FIXED = {*SMALL, "source_vocab_size"}
INTEGERS, NUMBERS = (1, 2, 3), (0.5, 2.0)


def options(parameter: Parameter) -> list[Any]:
    """Values to try for a parameter: all of a choice, every block of a slot, some of a range. Not all need be valid.

    None for what says how a model is computed and not which one it is: backends are compared by a check of their own.
    """
    if parameter.name in FIXED or parameter.arity != "one" or parameter.runtime:
        return []
    return list(dict.fromkeys(_options(parameter.annotation, parameter.slot)))


def variants(subject: Subject) -> list[Subject]:
    """The subject with one of its own parameters at another value, for each that its place allows."""
    canonical = subject.canonical()
    found: list[Subject] = []
    for parameter in entries(subject.slot)[subject.name].parameters.values():
        for value in options(parameter):
            changed = replace(subject, params={**subject.params, parameter.name: value})
            if value != canonical[parameter.name] and not _is_default(value, canonical[parameter.name]):
                found.append(changed)
    return [changed for changed in found if allowed(changed)]


def allowed(subject: Subject) -> bool:
    """Whether the parameters fit each other and the place."""
    try:
        if any(unsupported_positions(subject.spec)):
            return False
        with torch.device("meta"):
            subject.make()
    except ValueError:
        return False
    return True


def _options(annotation: Any, slot: str | None) -> Iterator[Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from entries(slot) if slot else _options(args[0], slot)
    elif origin in (Union, UnionType):
        for argument in args:
            yield from _options(argument, slot)
    elif origin is tuple:  # only tuples of choices
        yield from ((item,) for item in _options(args[0], None))
    elif origin is Literal:
        yield from args
    else:
        yield from _PLAIN.get(annotation, ())


_PLAIN: dict[Any, tuple[Any, ...]] = {
    NoneType: (None,),
    bool: (False, True),
    int: INTEGERS,
    float: NUMBERS,
}


def _is_default(name: Any, canonical: Any) -> bool:
    """Whether a block's bare name is what is said already."""
    return isinstance(canonical, dict) and cast("dict[str, Any]", canonical).get("type") == name
