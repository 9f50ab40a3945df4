"""Recognise ``Callable[[Site], Norm]`` as 'a recipe for a norm'."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast, get_args, get_origin

Arity = Literal["one", "many", "named"]


class FactoryMarker:
    """Marks a callable that returns a block: in a recipe it is a block's name or a mapping with its ``type``."""


@dataclass(frozen=True)
class Found:
    """A parameter that opens a slot: one block, many in a tuple, or many named in a mapping."""

    slot: str
    arity: Arity


def slot_of(source: Any) -> str:
    """The slot of the block that ``Callable[..., Block]`` returns."""
    return cast("str", get_args(source)[-1].slot)


def factory_of(annotation: Any) -> Found | None:
    """How ``annotation`` opens a slot, looking through ``| None``, ``tuple[..., ...]`` and ``Mapping[str, ...]``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if any(isinstance(item, FactoryMarker) for item in args[1:]):
            return Found(slot_of(args[0]), "one")
        return factory_of(args[0])
    nested = [found for argument in args if (found := factory_of(argument))]
    if not nested:
        return None
    arity: Arity = "many" if origin is tuple else "named" if origin is Mapping or origin is dict else nested[0].arity
    return Found(nested[0].slot, arity)
