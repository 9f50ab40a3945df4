"""Option values to try for a parameter, and the variants of a block: one option changed in each."""

from collections.abc import Iterator
from dataclasses import replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import torch

from blockformer.conformance.block_case import PLACES, SMALL, BlockCase
from blocks.attention.key_reuse import sources_of
from blocks.attention.key_selector import check_choices
from blocks.base import Layer, Mixer
from registry import Parameter, entries, slot_named
from registry.diagnosis import unsupported_positions

FIXED = {*SMALL, "source_vocab_size", "target_max_length"}
WITHOUT_VARIANTS = ("dataset", "evaluation", "tokenizer")
INTEGERS, NUMBERS = (1, 2, 3), (0.5, 2.0)


def options(parameter: Parameter) -> list[Any]:
    """Values to try for a parameter: all literals, every block of a slot, some numbers. Some may be invalid.

    Runtime parameters such as the backend have none: check_backends_agree compares those.
    """
    if parameter.name in FIXED or parameter.arity != "one" or parameter.runtime or is_training_only(parameter):
        return []
    return list(dict.fromkeys(_options(parameter.annotation, parameter.slot)))


def is_training_only(parameter: Parameter) -> bool:
    """Whether a model does not run the block of a parameter in its forward, so that its outputs do not show it."""
    return parameter.slot is not None and slot_named(parameter.slot).training_only


def variants(case: BlockCase) -> list[BlockCase]:
    """The case with one parameter at another value, for each value that is valid at its place.

    A block with one case is at one of the places that it works at: values that are invalid there are tried at another.
    Datasets, tokenizers and evaluations have none: their options name what is read, or how much.
    """
    if case.slot in WITHOUT_VARIANTS:
        return []
    canonical = case.canonical()
    found: list[BlockCase] = []
    for parameter in entries(case.slot)[case.name].parameters.values():
        for value in options(parameter):
            changed = replace(case, params={**case.params, parameter.name: value}, varied=parameter.name)
            if value != canonical[parameter.name] and not _is_default(value, canonical[parameter.name]):
                found.append(changed)
    return [placed for changed in found if (placed := _placed(changed)) is not None]


def _placed(case: BlockCase) -> BlockCase | None:
    """The case at its place or, if it has one case only and is invalid there, among bidirectional layers."""
    elsewhere = () if case.slot in PLACES or case.slot == "model" else (replace(case, place="bidirectional"),)
    return next((candidate for candidate in (case, *elsewhere) if allowed(candidate)), None)


def allowed(case: BlockCase) -> bool:
    """Whether the parameters fit each other and the place: the case builds on the meta device."""
    try:
        if any(unsupported_positions(case.spec)):
            return False
        with torch.device("meta"):
            block = case.construct()
        if isinstance(block, Mixer | Layer):
            check_choices([block])
            sources_of([block])
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
    """Whether the name of a block is already the canonical value."""
    return isinstance(canonical, dict) and cast("dict[str, Any]", canonical).get("type") == name
