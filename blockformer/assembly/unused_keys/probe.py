"""Build a block with other values of one key, to find whether the key has an effect."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from blockformer.assembly.unused_keys.module_equality import certainly_equal
from registry import Parameter, Spec, entries
from registry.spec import ParentArguments, Record, build_hook

BuiltBlocks = Mapping[tuple[int, ParentArguments], Any]
"""Blocks by the id of their Spec and their parent's arguments."""
MAX_TRIALS = 8
"""Maximum number of values to try for a key."""


class DifferentChild(BaseException):
    """The block builds a child that it did not build before, so the value has an effect.

    A BaseException, so that no block catches it.
    """


def has_effect(spec: Spec[Any], given: ParentArguments, built: Any, key: str, known: BuiltBlocks) -> bool:
    """Whether another value of ``key`` builds a different block, or the block rejects all other values.

    Args:
        spec: the block's recipe.
        given: its parent's arguments.
        built: the block.
        key: one of its parameters.
        known: blocks built so far, reused for its children.
    """

    def reuse(child: Spec[Any], child_given: ParentArguments) -> Any:
        if (id(child), child_given) not in known:
            raise DifferentChild
        return known[id(child), child_given]

    default, ineffective, rejected = spec.entry.parameters[key].default, list[Any](), False
    for value, variant in islice(variants(spec, key), MAX_TRIALS):
        try:
            with build_hook(reuse):
                rebuilt = variant.build(*given)
        except DifferentChild:
            return True
        except Exception:  # a block may raise anything for a value that the recipe did not ask for
            rejected = True
            continue
        if not certainly_equal(built, rebuilt):
            return True
        ineffective.append(value)
    if not ineffective:
        return True
    # rejecting a value shows that the block reads the key, unless a value other than None and the default had no effect
    return rejected and all(value is None or value == default for value in ineffective)


def enabling_key(spec: Spec[Any], given: ParentArguments, key: str) -> str | None:
    """A key of the same block that, with another value, gives ``key`` an effect; None: there is none."""
    for name in spec.entry.parameters:
        if name == key:
            continue
        for _, variant in islice(variants(spec, name), MAX_TRIALS):
            record = Record()
            with build_hook(record.build):
                built = variant(*given)
            if record.failures:
                continue
            known = {(id(child), at): block for child, at, block in record.built}
            if has_effect(variant, given, built, key, known):
                return name
    return None


def variants(spec: Spec[Any], key: str) -> Iterator[tuple[Any, Spec[Any]]]:
    """Valid other values of ``key``, each with the Spec that has it."""
    parameter, value = spec.entry.parameters[key], getattr(spec.params, key)
    for other in other_values(parameter, value):
        try:
            yield other, spec.but(**{key: other})
        except (ValidationError, PydanticCustomError):
            continue


def other_values(parameter: Parameter, value: Any) -> Iterator[Any]:
    """Values of a parameter other than ``value``; for a child block, new Specs, which no built block belongs to."""
    if parameter.slot is not None:
        yield from _other_blocks(parameter, value)
        return
    for other in _values_of_type(parameter.annotation, value):
        if type(other) is not type(value) or other != value:
            yield other


def _other_blocks(parameter: Parameter, value: Any) -> Iterator[Any]:
    match value:
        case Spec():
            yield cast("Spec[Any]", value).but()
            yield from entries(str(parameter.slot))
        case tuple():
            yield tuple(item.but() for item in cast("tuple[Spec[Any], ...]", value))
        case Mapping():
            yield {name: item.but() for name, item in cast("Mapping[str, Spec[Any]]", value).items()}
        case _:
            yield from entries(str(parameter.slot)) if parameter.arity == "one" else ()


def _values_of_type(annotation: Any, value: Any) -> Iterator[Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _values_of_type(args[0], value)
    elif origin in (Union, UnionType):
        for argument in args:
            yield from _values_of_type(argument, value)
    elif origin is Literal:
        yield from args
    elif origin is tuple:
        yield from ((), *((item,) for item in _values_of_type(args[0], None)))
    elif annotation in _EXAMPLES:
        yield from _EXAMPLES[annotation](value)


_EXAMPLES: Mapping[Any, Callable[[Any], tuple[Any, ...]]] = {
    NoneType: lambda _: (None,),
    bool: lambda _: (True, False),
    int: lambda value: (2 * value, value + 1, 1) if isinstance(value, int) else (1, 2, 4),
    float: lambda value: (value / 2, 2 * value, 0.5) if isinstance(value, int | float) else (0.5, 2.0),
    str: lambda value: (f"{value}2",),
}
