"""Parse recipe mappings into Specs, and build blocks from Specs."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from registry.errors import nearest, quoted
from registry.registration import Entry, Parameter, as_recipe, entries, slot_named, slots
from registry.slots import with_default_type
from registry.types import FactoryMarker, slot_of

T = TypeVar("T")
ParentArguments = tuple[Any, ...]
Built = tuple["Spec[Any]", ParentArguments, Any]
BuildHook = Callable[["Spec[Any]", ParentArguments], Any]
_HOOK: ContextVar[BuildHook | None] = ContextVar("build_hook", default=None)


@dataclass(frozen=True, eq=False, repr=False)
class Spec(Generic[T]):
    """A named, validated, serialisable ``functools.partial`` of a block. Call it with the block's site to build."""

    entry: Entry
    params: BaseModel

    def __call__(self, *given: Any) -> T:
        hook = _HOOK.get()
        return self.build(*given) if hook is None else hook(self, given)

    def build(self, *given: Any) -> T:
        """Build the block without the hook of :func:`build_hook`; its child blocks still go through it."""
        block = cast("Any", self.entry.block)
        built = block.__new__(block)
        try:
            built.__init__(*given, **dict(self.params))
        except Exception as error:
            self._check_base(built, error)
            error.add_note(f"  while building {self.entry.slot} {self.entry.name!r}")
            raise
        self._check_base(built)
        built._spec = self
        return built

    def _check_base(self, built: Any, cause: Exception | None = None) -> None:
        """Refuse a block whose constructor left out that of its base class, which shows in errors elsewhere."""
        if not built.has_base:
            name = f"{self.entry.block.__module__}.{self.entry.block.__qualname__}"
            raise ValueError(
                f"{name}.__init__ has to begin with super().__init__(...), as its base class says"
            ) from cause

    def but(self, **changes: Any) -> "Spec[T]":
        """The same with some parameters at other values.

        Raises:
            pydantic.ValidationError: a value is not valid.
        """
        return Spec(self.entry, self.entry.model.model_validate(dict(self.params) | changes))

    def dump(self, *, runtime: bool = True) -> dict[str, Any]:
        """The canonical mapping: ``type`` first, every default filled in, in the order of the signature.

        Args:
            runtime: include parameters that set only how a model is computed (:class:`registry.types.Runtime`).
        """
        known = self.entry.parameters
        return {"type": self.entry.name} | {
            key: _plain(value, runtime) for key, value in self.params if runtime or not known[key].runtime
        }

    def identity(self) -> dict[str, Any]:
        """The identity of the model: ``type``, and each parameter that differs from its first default.

        A parameter that sets only how a model is computed is left out (:class:`registry.types.Runtime`). One at its
        default is left out too, so that a block can gain a parameter without changing the hash of models that do not
        use it. Where a default changed later, the first one counts (:class:`registry.types.FirstDefault`), so that a
        stored recipe, which names all values, keeps its hash.
        """
        found: dict[str, Any] = {"type": self.entry.name}
        for key, value in self.params:
            parameter = self.entry.parameters[key]
            if not parameter.runtime and (written := _identity(value)) != _identity_of_default(parameter):
                found[key] = written
        return found

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

    def __copy__(self) -> "Spec[T]":
        return self  # it is immutable, and paths in a recipe are found by identity

    def __deepcopy__(self, memo: Any) -> "Spec[T]":
        return self

    def __reduce__(self) -> Any:  # the class of params is made at registration; specs inside stay the same objects
        return _restored, (self.entry.slot, self.entry.name, dict(self.params))

    def __repr__(self) -> str:
        return f"{self.entry.name}({', '.join(f'{key}={value!r}' for key, value in self.params)})"


@contextmanager
def build_hook(hook: BuildHook) -> Generator[None]:
    """Inside, ``hook(spec, parent_arguments)`` makes the block of every Spec that is called."""
    token = _HOOK.set(hook)
    try:
        yield
    finally:
        _HOOK.reset(token)


@dataclass
class Record:
    """A hook (:meth:`build`) that records what happens while a recipe is built.

    Attributes:
        built: each Spec that was called, what its parent passed to it, and the block.
        failures: each Spec whose block could not be built, and why.
    """

    built: list[tuple["Spec[Any]", ParentArguments, Any]] = field(
        default_factory=list[tuple["Spec[Any]", ParentArguments, Any]]
    )
    failures: list[tuple["Spec[Any]", Exception]] = field(default_factory=list[tuple["Spec[Any]", Exception]])

    def build(self, spec: "Spec[Any]", given: ParentArguments) -> Any:
        """Build, and put a placeholder where that fails, so that all failures are found."""
        try:
            built = spec.build(*given)
        except Exception as error:
            if isinstance(error, ValueError) or not self.failures:
                self.failures.append((spec, error))
            return spec.entry.block.placeholder()
        self.built.append((spec, given, built))
        return built


def spec_of(block: Any) -> "Spec[Any] | None":
    """The Spec that built ``block`` or what it is a copy of; None if a constructor was called directly."""
    return getattr(block, "_spec", None)


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
        context = {"slot": slot, "value": quoted(cast("Any", value))}
        raise PydanticCustomError("block", "{slot} must be a name or a mapping with its 'type', not {value}", context)
    params: dict[str, Any] = {"type": value} if isinstance(value, str) else dict(cast("Mapping[str, Any]", value))
    name = params.pop("type", None)
    entry = _entry(slot, _default_block(slot) if name is None else name)
    for key, parameter in entry.parameters.items():
        if parameter.slot and key in params:
            params[key] = with_default_type(params[key], parameter.default)
    return Spec(entry, entry.model.model_validate(params))


class AsRecipe(FactoryMarker):
    """Lets pydantic read ``Annotated[Callable[[Site], Norm], AsRecipe()]`` as 'a recipe for a norm'."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        slot = slot_of(source)
        return core_schema.no_info_plain_validator_function(lambda value: parse(slot, value))


def _restored(slot: str, name: str, params: dict[str, Any]) -> Spec[Any]:
    entry = entries(slot)[name]
    return Spec(entry, entry.model.model_validate(params))


def _plain(value: Any, runtime: bool) -> Any:
    match value:
        case Spec():
            return cast("Spec[Any]", value).dump(runtime=runtime)
        case tuple():
            return [_plain(item, runtime) for item in cast("tuple[Any, ...]", value)]
        case Mapping():
            return {key: _plain(item, runtime) for key, item in cast("Mapping[str, Any]", value).items()}
        case _:
            return value


def _identity(value: Any) -> Any:
    match value:
        case Spec():
            return cast("Spec[Any]", value).identity()
        case tuple():
            return [_identity(item) for item in cast("tuple[Any, ...]", value)]
        case Mapping():
            return {key: _identity(item) for key, item in cast("Mapping[str, Any]", value).items()}
        case _:
            return value


def _identity_of_default(parameter: Parameter) -> Any:
    """As :func:`_identity` of the first default, where the defaults inside it are the first ones too.

    A block's name stands for the block at its first defaults, whatever those of today are.
    """
    default = parameter.first_default
    if parameter.slot is None or parameter.arity != "one" or default is None:
        return _identity(default)
    named = {"type": default} if isinstance(default, str) else dict(cast("Mapping[str, Any]", default))
    entry = entries(parameter.slot)[named["type"]]
    written = parse(parameter.slot, named).identity()
    return {"type": named["type"]} | {key: written[key] for key in entry.parameters if key in named and key in written}


def _default_block(slot: str) -> str:
    default = slot_named(slot).default_block
    if default is None:
        context = {"slot": slot, "known": ", ".join(entries(slot))}
        raise PydanticCustomError("no_type", "{slot} needs a 'type'; known: {known}", context)
    return default


def _entry(slot: str, name: Any) -> Entry:
    if isinstance(name, str) and (entry := entries(slot).get(name)):
        return entry
    known = list(entries(slot))
    homes = slots() if isinstance(name, str) else []
    home = next((other for other in homes if other != slot and name in entries(other)), "")
    hints = (nearest(str(name), known), f"{name!r} is one of {home};" if home else "")
    context = {"slot": slot, "name": quoted(name), "home": home, "hint": "".join(f" {hint}" for hint in hints if hint)}
    raise PydanticCustomError(
        "unknown_block", "no {slot} is called {name};{hint} known: {known}", context | {"known": ", ".join(known)}
    )
