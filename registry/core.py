"""The signature is the schema.

@register("attention")
class MultiHeadAttention(Mixer):
    def __init__(self, site: Site, *, heads: Positive = 8) -> None: ...
                       ^ where it sits   ^ what a recipe may say about it
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from docstring_parser.common import DocstringStyle
from pydantic import BaseModel, ConfigDict, Field, create_model

from registry.capabilities import Capabilities
from registry.errors import RegistrationError
from registry.factory import Arity, factory_of
from registry.types import Runtime

RESERVED = frozenset({"type", "like", "extends"})


class Block:
    """Whatever fills a slot; :mod:`blocks.base` has one subclass per slot.

    ``slot`` names the slot, ``given`` the arguments that the parent passes before the star, ``usual`` the block that is
    meant where a recipe opens a mapping in this slot without ``type``, ``paper`` the source of the idea, ``can`` what
    may be asked of it, ``expected_failures`` why checks of the conformance suite, by their names, do not hold for it.
    """

    slot: ClassVar[str]
    given: ClassVar[tuple[str, ...]] = ("site",)
    usual: ClassVar[str | None] = None
    paper: ClassVar[str] = ""
    can: ClassVar[Capabilities] = Capabilities()
    expected_failures: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def hollow(cls) -> Self:
        """An empty instance, to stand in for a block that could not be built while errors are collected."""
        return cls.__new__(cls)


B = TypeVar("B", bound=type[Block])


@dataclass(frozen=True)
class Parameter:
    """One recipe parameter of a block: its annotation, default and docstring, and the slot that it opens, if any."""

    name: str
    annotation: Any
    default: Any
    description: str
    slot: str | None
    arity: Arity
    runtime: bool


@dataclass(frozen=True)
class Entry:
    """A registered block with its parameters and the pydantic model that checks them."""

    name: str
    block: type[Block]
    parameters: Mapping[str, Parameter]
    model: type[BaseModel]

    @property
    def slot(self) -> str:
        return self.block.slot


_ENTRIES: dict[str, dict[str, Entry]] = {}
_NAMES: dict[type[Block], str] = {}


def slots() -> list[str]:
    """Every slot that has at least one block, sorted."""
    return sorted(_ENTRIES)


def entries(slot: str) -> Mapping[str, Entry]:
    """Every block registered in ``slot``, by name, in alphabetical order."""
    return _ENTRIES.get(slot, {})


def entry_of(block: type[Block]) -> Entry:
    """The entry under which ``block`` was registered."""
    return _ENTRIES[block.slot][_NAMES[block]]


def register(name: str) -> Callable[[B], B]:
    """Let recipes say ``type: <name>`` in the slot of the decorated block.

    Raises:
        RegistrationError: the name is taken, or the constructor breaks the contract.
    """

    def decorate(block: B) -> B:
        if taken := entries(block.slot).get(name):
            raise RegistrationError(
                f"{block.slot} {name!r} already names {taken.block.__module__}.{taken.block.__qualname__}"
            )
        parameters = _parameters(block)
        entry = Entry(name, block, parameters, _model(block, parameters))
        _ENTRIES[block.slot] = dict(sorted([*entries(block.slot).items(), (name, entry)]))
        _NAMES[block] = name
        return block

    return decorate


def _parameters(block: type[Block]) -> dict[str, Parameter]:
    hints = get_type_hints(block.__init__, include_extras=True)
    described = {
        item.arg_name: item.description or ""
        for item in parse_docstring(block.__doc__ or "", DocstringStyle.GOOGLE).params
    }
    parameters: dict[str, Parameter] = {}
    for parameter in _after_the_star(block):
        name = parameter.name
        _check(block, parameter, hints)
        found = factory_of(hints[name])
        parameters[name] = Parameter(
            name,
            hints[name],
            as_recipe(parameter.default),
            " ".join(described.get(name, "").split()),
            found.slot if found else None,
            found.arity if found else "one",
            get_origin(hints[name]) is Annotated and any(isinstance(item, Runtime) for item in get_args(hints[name])),
        )
    return parameters


def _after_the_star(block: type[Block]) -> list[inspect.Parameter]:
    _, *parameters = inspect.signature(block.__init__).parameters.values()
    given = tuple(parameter.name for parameter in parameters[: len(block.given)])
    if given != block.given or any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters[: len(given)]):
        raise RegistrationError(
            f"{block.__qualname__}.__init__ must begin ({', '.join(('self', *block.given))}, *, ...)"
        )
    return parameters[len(given) :]


def _check(block: type[Block], parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
    name, where = parameter.name, f"{block.__qualname__}.__init__: recipe parameter {parameter.name!r}"
    if parameter.kind is not parameter.KEYWORD_ONLY or name not in hints or parameter.default is parameter.empty:
        raise RegistrationError(f"{where} must be keyword-only, annotated, and have a default")
    if name in RESERVED or hasattr(BaseModel, name) or name.startswith(("_", "model_")):
        raise RegistrationError(f"{where} has a reserved name; choose another")


def _model(block: type[Block], parameters: Mapping[str, Parameter]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        p.name: (p.annotation, Field(p.default, description=p.description)) for p in parameters.values()
    }
    config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)
    return create_model(block.__name__, __config__=config, __doc__=block.__doc__, __module__=block.__module__, **fields)


def as_recipe(default: Any) -> Any:
    """What a recipe would say for a default: a block class is its name, a ``partial`` of one a mapping.

    Raises:
        RegistrationError: the class is not registered (define or import it first).
    """
    if isinstance(default, tuple):
        return tuple(as_recipe(item) for item in cast("tuple[Any, ...]", default))
    if isinstance(default, Mapping):
        return {key: as_recipe(value) for key, value in cast("Mapping[str, Any]", default).items()}
    if isinstance(default, partial):
        partially = cast("partial[Any]", default)
        if partially.args:
            raise RegistrationError(f"{partially}: a default may bind keyword arguments only")
        return {
            "type": as_recipe(partially.func),
            **{key: as_recipe(value) for key, value in partially.keywords.items()},
        }
    if isinstance(default, type) and issubclass(cast("type[Any]", default), Block):
        if default not in _NAMES:
            raise RegistrationError(f"{default.__qualname__} is used as a default but is not registered")
        return _NAMES[default]
    return default
