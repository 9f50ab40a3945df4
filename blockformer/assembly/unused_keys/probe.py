"""What a block would be with another value of one key."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from blockformer.assembly.unused_keys.module_equality import same
from registry import Parameter, Spec, entries
from registry.spec import ParentArguments, Record, build_hook

Built = Mapping[tuple[int, ParentArguments], Any]
TRIED = 8
"""Values that are tried for a key, at most."""


class Reached(BaseException):
    """A value has reached another block than was built before: it makes a difference."""


def matters(
    spec: Spec[Any], given: ParentArguments, built: Any, key: str, known: Mapping[tuple[int, ParentArguments], Any]
) -> bool:
    """Whether any other value of ``key`` gives another block; also if all of them are refused, as then it is read.

    Args:
        spec: the recipe of the block.
        given: what its parent gave it.
        built: the block.
        key: one of its parameters.
        known: blocks that were built already, by Spec and what it was given; they stand in for those inside.
    """

    def stand_in(child: Spec[Any], child_given: ParentArguments) -> Any:
        if (id(child), child_given) not in known:
            raise Reached
        return known[id(child), child_given]

    default, same_as, refused = spec.entry.parameters[key].default, list[Any](), False
    for value, other in islice(others(spec, key), TRIED):
        try:
            with build_hook(stand_in):
                again = other.build(*given)
        except Reached:
            return True
        except Exception:  # refused, in whatever way: it is not the value that was asked for
            refused = True
            continue
        if not same(built, again):
            return True
        same_as.append(value)
    if not same_as:
        return True
    # a value that is refused shows that the key is read, unless others but its absence give the same
    return refused and all(value is None or value == default for value in same_as)


def depends_on(spec: Spec[Any], given: ParentArguments, key: str) -> str | None:
    """Another key of the block with whose other value ``key`` would matter, if there is one."""
    for name in spec.entry.parameters:
        if name == key:
            continue
        for _, other in islice(others(spec, name), TRIED):
            record = Record()
            with build_hook(record.build):
                built = other(*given)
            if record.failures:
                continue
            known = {(id(child), at): block for child, at, block in record.built}
            if matters(other, given, built, key, known):
                return name
    return None


def others(spec: Spec[Any], key: str) -> Iterator[tuple[Any, Spec[Any]]]:
    """Other values of ``key`` as far as they are valid by themselves, and the block with each."""
    parameter, value = spec.entry.parameters[key], getattr(spec.params, key)
    for other in values(parameter, value):
        try:
            yield other, spec.but(**{key: other})
        except (ValidationError, PydanticCustomError):
            continue


def values(parameter: Parameter, value: Any) -> Iterator[Any]:
    """Other values of a parameter than ``value``; where it opens a slot, blocks that nobody has built yet."""
    if parameter.slot is not None:
        yield from _blocks(parameter, value)
        return
    for other in _of_type(parameter.annotation, value):
        if type(other) is not type(value) or other != value:
            yield other


def _blocks(parameter: Parameter, value: Any) -> Iterator[Any]:
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


def _of_type(annotation: Any, value: Any) -> Iterator[Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _of_type(args[0], value)
    elif origin in (Union, UnionType):
        for argument in args:
            yield from _of_type(argument, value)
    elif origin is Literal:
        yield from args
    elif origin is tuple:
        yield from ((), *((item,) for item in _of_type(args[0], None)))
    elif annotation in _NEAR:
        yield from _NEAR[annotation](value)


_NEAR: Mapping[Any, Callable[[Any], tuple[Any, ...]]] = {
    NoneType: lambda _: (None,),
    bool: lambda _: (True, False),
    int: lambda value: (2 * value, value + 1, 1) if isinstance(value, int) else (1, 2, 4),
    float: lambda value: (value / 2, 2 * value, 0.5) if isinstance(value, int | float) else (0.5, 2.0),
    str: lambda value: (f"{value}2",),
}
