"""From a recipe mapping to a Spec, and from a Spec to a block."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast
from weakref import finalize

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from registry.building import builder
from registry.core import Entry, as_recipe, entries, slots
from registry.errors import nearest, shown
from registry.factory import FactoryMarker, slot_of
from registry.trees import plain

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Spec(Generic[T]):
    """A named, validated, serialisable ``functools.partial`` of a block. Call it with the block's site to build."""

    entry: Entry
    params: BaseModel

    def __call__(self, *given: Any) -> T:
        stand_in = builder()
        return self.build(*given) if stand_in is None else stand_in(self, given)

    def build(self, *given: Any) -> T:
        """The block itself, whoever else takes part in the building."""
        try:
            built = cast("Any", self.entry.block)(*given, **dict(self.params))
        except Exception as error:
            error.add_note(f"  while building {self.entry.slot} {self.entry.name!r}")
            raise
        _BUILT_FROM[id(built)] = self
        finalize(built, _BUILT_FROM.pop, id(built))
        return built

    def but(self, **changes: Any) -> "Spec[T]":
        """The same with some parameters at other values.

        Raises:
            pydantic.ValidationError: a value is not valid.
        """
        return Spec(self.entry, self.entry.model.model_validate(dict(self.params) | changes))

    def dump(self) -> dict[str, Any]:
        """The canonical mapping: ``type`` first, every default filled in, in the order of the signature."""
        return {"type": self.entry.name} | {key: _plain(value) for key, value in self.params}

    def identity(self) -> dict[str, Any]:
        """:meth:`dump` without what does not change which model it is (see :class:`registry.types.Runtime`)."""
        keep = {name for name, parameter in self.entry.parameters.items() if not parameter.runtime}
        return {"type": self.entry.name} | {key: _plain(value, True) for key, value in self.params if key in keep}

    @property
    def hash(self) -> str:
        """SHA-256 over :meth:`identity`: equal for the same model written in two ways."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def children(self) -> Iterator[tuple[tuple[str | int, ...], "Spec[Any]"]]:
        """The Specs directly inside this one, each with its key path."""
        for key, value in self.params:
            match value:
                case Spec():
                    yield (key,), cast("Spec[Any]", value)
                case tuple():
                    items = enumerate(cast("tuple[Any, ...]", value))
                    yield from (((key, i), item) for i, item in items if isinstance(item, Spec))
                case Mapping():
                    named = cast("Mapping[str, Any]", value).items()
                    yield from (((key, name), item) for name, item in named if isinstance(item, Spec))
                case _:
                    pass

    def walk(self, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], "Spec[Any]"]]:
        """This Spec and all inside it, each with its key path from here."""
        yield path, self
        for key, child in self.children():
            yield from child.walk(path + key)

    def __reduce__(self) -> Any:  # the params class is made at registration, so pickle by recipe
        return parse, (self.entry.slot, plain(self.dump()))

    def __repr__(self) -> str:
        return f"{self.entry.name}({', '.join(f'{key}={value!r}' for key, value in self.params)})"


_BUILT_FROM: "dict[int, Spec[Any]]" = {}  # by identity: a block may define equality


def spec_of(block: Any) -> "Spec[Any] | None":
    """The Spec that built ``block``; None if a constructor was called directly."""
    return _BUILT_FROM.get(id(block))


def parse(slot: str, value: Any) -> Spec[Any]:
    """Accept ``name`` or ``{type: name, **params}``, a block class or a partial of one; a finished Spec passes through.

    Raises:
        pydantic.ValidationError: parameters are wrong.
        pydantic_core.PydanticCustomError: there is no such block, or no ``type`` where none is implied.
    """
    value = as_recipe(value)
    if isinstance(value, Spec) and (spec := cast("Spec[Any]", value)).entry.slot == slot:
        return spec
    if not isinstance(value, str | Mapping):
        context = {"slot": slot, "value": shown(cast("Any", value))}
        raise PydanticCustomError("block", "{slot} must be a name or a mapping with its 'type', not {value}", context)
    params: dict[str, Any] = {"type": value} if isinstance(value, str) else dict(cast("Mapping[str, Any]", value))
    name = params.pop("type", None)
    entry = _entry(slot, _usual(slot) if name is None else name)
    for key, parameter in entry.parameters.items():
        if parameter.slot and key in params:
            params[key] = with_type(params[key], parameter.default)
    return Spec(entry, entry.model.model_validate(params))


class AsRecipe(FactoryMarker):
    """Lets pydantic read ``Annotated[Callable[[Site], Norm], AsRecipe()]`` as 'a recipe for a norm'."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        slot = slot_of(source)
        return core_schema.no_info_plain_validator_function(lambda value: parse(slot, value))


def with_type(value: Any, default: Any) -> Any:
    """Where a mapping opens a parameter's own block without ``type``, the parameter's default is meant."""
    if not isinstance(value, Mapping) or "type" in value or "like" in value:
        return cast("Any", value)
    change = cast("Mapping[str, Any]", value)
    if isinstance(default, str):
        return {"type": default, **change}
    if isinstance(default, Mapping) and "type" in default:
        return {**cast("Mapping[str, Any]", default), **change}
    return change


def _plain(value: Any, identity: bool = False) -> Any:
    match value:
        case Spec():
            spec = cast("Spec[Any]", value)
            return spec.identity() if identity else spec.dump()
        case tuple():
            return [_plain(item, identity) for item in cast("tuple[Any, ...]", value)]
        case Mapping():
            return {key: _plain(item, identity) for key, item in cast("Mapping[str, Any]", value).items()}
        case _:
            return value


def _usual(slot: str) -> str:
    usual = next((entry.block.usual for entry in entries(slot).values()), None)
    if usual is None:
        context = {"slot": slot, "known": ", ".join(sorted(entries(slot)))}
        raise PydanticCustomError("no_type", "{slot} needs a 'type'; known: {known}", context)
    return usual


def _entry(slot: str, name: Any) -> Entry:
    if isinstance(name, str) and (entry := entries(slot).get(name)):
        return entry
    known = sorted(entries(slot))
    home = next((other for other in slots() if other != slot and name in entries(other)), "")
    hints = (nearest(str(name), known), f"{name!r} is one of {home};" if home else "")
    context = {"slot": slot, "name": shown(name), "home": home, "hint": "".join(f" {hint}" for hint in hints if hint)}
    raise PydanticCustomError(
        "unknown_block", "no {slot} is called {name};{hint} known: {known}", context | {"known": ", ".join(known)}
    )
