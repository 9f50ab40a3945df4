"""Types and markers for the parameters of blocks, such as ``Callable[[Site], Norm]`` for 'a recipe for a norm'."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

Arity = Literal["one", "many", "named"]

MAX_LAYERS = 1_000

Positive = Annotated[int, Gt(0)]
NonNegative = Annotated[int, Ge(0)]
Depth = Annotated[int, Ge(0), Le(MAX_LAYERS)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Lt(1)]
Share = Annotated[float, Gt(0), Le(1)]


class Runtime:
    """Marks a parameter that sets how a model is computed, not which model it is: it stays out of the hash.

    ``backend: Annotated[Literal["auto", "eager"], Runtime()] = "auto"``
    """


@dataclass(frozen=True)
class FirstDefault:
    """Keeps the hash of stored recipes when a default changes: names the default that the parameter began with.

    ``eps: Annotated[float, FirstDefault(1e-5)] = 1e-6``
    """

    value: Any


class FactoryMarker:
    """Marks a callable that returns a block: in a recipe it is a block's name or a mapping with its ``type``."""


@dataclass(frozen=True)
class SlotParameter:
    """A parameter that opens a slot: one block, many in a tuple, or many named in a mapping."""

    slot: str
    arity: Arity


def slot_of(source: Any) -> str:
    """The slot of the block that ``Callable[..., Block]`` returns."""
    return cast("str", get_args(source)[-1].slot.name)


def factory_of(annotation: Any) -> SlotParameter | None:
    """How ``annotation`` opens a slot, looking through ``| None``, ``tuple[..., ...]`` and ``Mapping[str, ...]``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if any(isinstance(item, FactoryMarker) for item in args[1:]):
            return SlotParameter(slot_of(args[0]), "one")
        return factory_of(args[0])
    nested = [found for argument in args if (found := factory_of(argument))]
    if not nested:
        return None
    arity: Arity = "many" if origin is tuple else "named" if origin is Mapping or origin is dict else nested[0].arity
    return SlotParameter(nested[0].slot, arity)
