"""Register blocks, and read the recipe parameters of each from its constructor: the signature is the schema.

@register("attention")
class MultiHeadAttention(Mixer):
    def __init__(self, site: Site, *, heads: Positive = 8) -> None: ...
                       ^ where it sits   ^ what a recipe can set
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
from registry.slots import Slot
from registry.types import Arity, FirstDefault, Runtime, factory_of

RESERVED = frozenset({"type", "like", "extends", "keys"})  # keys: dict() of a pydantic model would call it


class Block:
    """Base class of all that is registered; :mod:`blocks.base` has one subclass for each slot of recipes.

    Attributes:
        slot: the slot that it fills.
        paper: the source of the idea.
        formula: what it computes, in the notation of :mod:`registry.formula`; empty where words say more.
        capabilities: what it supports: places, padding, documents, caches, backends, ....
        expected_failures: checks of the conformance suite, by name, that it does not pass, each with the reason.
    """

    slot: ClassVar[Slot]
    paper: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    capabilities: ClassVar[Capabilities] = Capabilities()
    expected_failures: ClassVar[Mapping[str, str]] = {}
    _spec: Any = None

    @property
    def has_base(self) -> bool:
        """Whether the constructor of the base class has run."""
        return True

    @classmethod
    def placeholder(cls) -> Self:
        """An empty instance in place of a block that could not be built, so that further errors are found."""
        return cls.__new__(cls)


B = TypeVar("B", bound=type[Block])


@dataclass(frozen=True)
class Parameter:
    """One recipe parameter of a block.

    Attributes:
        name: its key in recipes.
        annotation: of the constructor.
        default: in the form of a recipe.
        first_default: the default that it had when it was introduced, see :class:`registry.types.FirstDefault`.
        description: from the docstring.
        slot: the slot that it opens, if any.
        arity: whether it opens the slot for one block (``one``), a list of blocks (``many``), or a mapping of names to
            blocks (``named``).
        runtime: it sets how the model is computed, not which model it is.
    """

    name: str
    annotation: Any
    default: Any
    first_default: Any
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
        return self.block.slot.name


_ENTRIES: dict[str, dict[str, Entry]] = {}
_NAMES: dict[type[Block], str] = {}


def slots() -> list[str]:
    """Every slot of recipes that has at least one block, sorted."""
    return sorted(name for name in _ENTRIES if slot_named(name).option is None)


def option_slots() -> list[str]:
    """Every slot that an option of `blockformer fit` fills, sorted."""
    return sorted(name for name in _ENTRIES if slot_named(name).option is not None)


def entries(slot: str) -> Mapping[str, Entry]:
    """Every block registered in ``slot``, by name, in alphabetical order."""
    return _ENTRIES.get(slot, {})


def slot_named(name: str) -> Slot:
    """The slot of this name.

    Raises:
        KeyError: no block is registered in such a slot.
    """
    return next(iter(_ENTRIES[name].values())).block.slot


def entry_of(block: type[Block]) -> Entry:
    """The entry under which ``block`` was registered."""
    return _ENTRIES[block.slot.name][_NAMES[block]]


def register(name: str) -> Callable[[B], B]:
    """Register the decorated block under ``name`` in its slot, so that recipes can use it.

    Raises:
        RegistrationError: the name is taken, or the constructor breaks the contract.
    """

    def decorate(block: B) -> B:
        try:
            entry = _entry(block, name)
        except RegistrationError as error:
            raise RegistrationError(f"{_source(block)}: {error}") from None
        _ENTRIES[entry.slot] = dict(sorted([*entries(entry.slot).items(), (name, entry)]))
        _NAMES[block] = name
        return block

    return decorate


def _entry(block: type[Block], name: str) -> Entry:
    slot = block.slot
    if slot.name in _ENTRIES and slot_named(slot.name) != slot:
        raise RegistrationError(f"{block.__qualname__}: another slot is called {slot.name!r} already")
    if taken := entries(slot.name).get(name):
        raise RegistrationError(
            f"{slot} {name!r} is already registered by {taken.block.__module__}.{taken.block.__qualname__}"
        )
    parameters = _parameters(block)
    return Entry(name, block, parameters, _model(block, parameters))


def _source(block: type[Block]) -> str:
    """File and line of a class; its module where there is no file."""
    try:
        return f"{inspect.getsourcefile(block)}:{inspect.getsourcelines(block)[1]}"
    except (OSError, TypeError):
        return block.__module__


def _parameters(block: type[Block]) -> dict[str, Parameter]:
    try:
        hints = get_type_hints(block.__init__, include_extras=True)
    except NameError as error:
        raise RegistrationError(
            f"{block.__qualname__}.__init__: an annotation cannot be read: {error}; define it in the module, or import "
            "it there outside `if TYPE_CHECKING`"
        ) from None
    described = {
        item.arg_name: item.description or ""
        for item in parse_docstring(block.__doc__ or "", DocstringStyle.GOOGLE).params
    }
    parameters: dict[str, Parameter] = {}
    for parameter in _after_the_star(block):
        name = parameter.name
        _check(block, parameter, hints)
        annotation = hints[name]
        found, default = factory_of(annotation), as_recipe(parameter.default)
        markers = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
        first = [as_recipe(marker.value) for marker in markers if isinstance(marker, FirstDefault)]
        parameters[name] = Parameter(
            name=name,
            annotation=annotation,
            default=default,
            first_default=first[0] if first else default,
            description=" ".join(described.get(name, "").split()),
            slot=found.slot if found else None,
            arity=found.arity if found else "one",
            runtime=any(isinstance(marker, Runtime) for marker in markers),
        )
    return parameters


def _after_the_star(block: type[Block]) -> list[inspect.Parameter]:
    expected = block.slot.parent_arguments
    _, *parameters = inspect.signature(block.__init__).parameters.values()
    given = tuple(parameter.name for parameter in parameters[: len(expected)])
    if given != expected or any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters[: len(given)]):
        raise RegistrationError(f"{block.__qualname__}.__init__ must begin ({', '.join(('self', *expected))}, *, ...)")
    return parameters[len(given) :]


def _check(block: type[Block], parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
    name, where = parameter.name, f"{block.__qualname__}.__init__: recipe parameter {parameter.name!r}"
    missing = {
        "be keyword-only": parameter.kind is not parameter.KEYWORD_ONLY,
        "have a type annotation": name not in hints,
        "have a default": parameter.default is parameter.empty,
    }
    if any(missing.values()):
        raise RegistrationError(f"{where} must {' and '.join(rule for rule, broken in missing.items() if broken)}")
    if name in RESERVED | block.slot.reserved or hasattr(BaseModel, name) or name.startswith(("_", "model_")):
        raise RegistrationError(f"{where} has a reserved name; choose another")


def _model(block: type[Block], parameters: Mapping[str, Parameter]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        p.name: (p.annotation, Field(p.default, description=p.description)) for p in parameters.values()
    }
    config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)
    return create_model(block.__name__, __config__=config, __doc__=block.__doc__, __module__=block.__module__, **fields)


def as_recipe(default: Any) -> Any:
    """A default in the form of a recipe: a block class becomes its name, a ``partial`` of one a mapping.

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
