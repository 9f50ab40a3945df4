"""Options that name a component, such as a dataset, and its parameters, on one level with the group's own settings."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import ValidationError

from registry import Entry, entries
from registry.errors import nearest, quoted
from registry.spec import parse

T = TypeVar("T")
Chosen = Mapping[str, str]
"""The name of the component of each option of a group: ``{"type": "adamw", "schedule": "cosine"}``."""


@dataclass(frozen=True)
class OptionGroup:
    """A group of options of `blockformer fit`, such as `--data.*`.

    Attributes:
        name: the first part of its options.
        slots: the slot that each option fills, by its name in the group.
        common: the settings that are not those of one component; the names of `slots` are among them.
        error: of what a user can correct.
    """

    name: str
    slots: Mapping[str, str]
    common: tuple[str, ...]
    error: type[Exception]

    def entry(self, option: str, name: Any) -> Entry:
        """The registered component of this name.

        Raises:
            error: there is none.
        """
        slot = self.slots[option]
        known = entries(slot)
        if not isinstance(name, str) or name not in known:
            similar = nearest(name, known) if isinstance(name, str) else ""
            advice = similar or f"known: {', '.join(known)}; a plug-in's needs --plugin MODULE"
            raise self.error(f"{self.name}.{option}: there is no {slot} {quoted(name)}; {advice}")
        return known[name]

    def options_of(self, option: str, chosen: Chosen) -> tuple[str, ...]:
        """The parameters of the component that an option names; none where there is no such component."""
        return tuple(self.entry(option, chosen[option]).parameters) if option in chosen else ()

    def settings(self, chosen: Chosen, base: type) -> dict[str, Parameter]:
        """Every setting that means something beside these components, by its name.

        Args:
            chosen: the name of each component.
            base: its constructor takes the common settings.

        Raises:
            error: there is no such component, or two of them have a parameter of one name.
        """
        found = [self.entry(option, name) for option, name in chosen.items()]
        unused = {name for entry in found for name in unused_by(entry)}
        own: dict[str, Parameter] = {}
        for entry in found:
            for name, parameter in entry.parameters.items():
                if name in own:
                    raise self.error(
                        f"{entry.slot} {entry.name!r} has a parameter {name!r}, as another component has: rename one"
                    )
                own[name] = _option(parameter)
        known = signature(base.__init__).parameters
        common = {name: known[name] for name in self.common if name not in unused}
        named = {option: common[option].replace(default=name) for option, name in chosen.items() if option in common}
        return {**common, **own, **named}

    def class_for(self, chosen: Chosen, base: type[T]) -> type[T]:
        """A class of settings with those of these components in its signature, from which jsonargparse makes options.

        Args:
            chosen: the name of each component.
            base: the class; its docstring describes what is not common as `options`.

        Raises:
            error: there is no such component.
        """

        def __init__(self: Any, **settings: Any) -> None:  # noqa: N807
            base.__init__(self, **settings)

        parameters = [one for option, name in chosen.items() for one in self.entry(option, name).parameters.values()]
        described = "\n".join(f"        {parameter.name}: {parameter.description}" for parameter in parameters)
        before, after = (base.__doc__ or "").split("        options: ")
        made = [Parameter("self", Parameter.POSITIONAL_ONLY), *self.settings(chosen, base).values()]
        __init__.__signature__ = signature(base.__init__).replace(parameters=made)
        rest = after[after.index("\n\n    Raises") :]
        made_class = type(base.__name__, (base,), {"__init__": __init__, "__doc__": before + described + rest})
        return cast("type[T]", made_class)

    def make(self, chosen: Chosen, options: Mapping[str, Any]) -> dict[str, Any]:
        """The component of each option, with its part of the settings.

        Args:
            chosen: the name of each.
            options: the settings that are not common.

        Raises:
            error: no component has such a setting, or a value is wrong; all problems are named.
        """
        known = {option: self.entry(option, name).parameters for option, name in chosen.items()}
        problems = [self.unknown(key, chosen) for key in options if not any(key in names for names in known.values())]
        problems += self.wrong_values(chosen, options)
        if problems:
            raise self.error("; ".join(problems))
        return {
            option: parse(self.slots[option], {"type": name, **_part(options, known[option])})()
            for option, name in chosen.items()
        }

    def wrong_values(self, chosen: Chosen, options: Mapping[str, Any]) -> list[str]:
        """What is wrong with the values of settings that the components have: one message for each."""
        problems: list[str] = []
        for option, name in chosen.items():
            parameters = self.entry(option, name).parameters
            own = _part(options, parameters)
            try:
                parse(self.slots[option], {"type": name, **own})
            except ValidationError as error:
                problems += self._messages(error, parameters)
        return problems

    def unknown(self, key: str, chosen: Chosen) -> str:
        """What to do about a setting that neither the group nor its components have."""
        reading = {slot for slot in self.slots.values() for entry in entries(slot).values() if key in entry.parameters}
        names = " and ".join(
            f"{self.slots[option]} {name!r}"
            for option, name in chosen.items()
            if not reading & {self.slots[one] for one in chosen} or self.slots[option] in reading
        )
        if key in self.common:
            return f"{self.name}.{key} has no effect with {names}; remove it"
        if readers := self.elsewhere(chosen).get(key):
            return f"{self.name}.{key} is a setting of {readers}, and has no effect with {names}; remove it"
        found = [self.entry(option, name) for option, name in chosen.items()]
        unused = {setting for entry in found for setting in unused_by(entry)}
        known = [*(setting for entry in found for setting in entry.parameters), *sorted({*self.common} - unused)]
        advice = nearest(key, known) or f"known: {', '.join(known)}"
        return f"there is no setting {self.name}.{key}; {advice}"

    def elsewhere(self, chosen: Chosen) -> dict[str, str]:
        """The settings that these components do not have and others do, each with those that have it, in words."""
        known = {key for option, name in chosen.items() for key in self.entry(option, name).parameters}
        found: dict[str, dict[str, list[str]]] = {}
        for slot in self.slots.values():
            for other, entry in entries(slot).items():
                for key in entry.parameters:
                    if key not in known:
                        found.setdefault(key, {}).setdefault(slot, []).append(repr(other))
        return {
            key: " or ".join(f"{slot} {in_words(names)}" for slot, names in readers.items())
            for key, readers in found.items()
        }

    def lists(self) -> dict[str, bool]:
        """Every setting of a component that takes a list, and whether it also takes a text alone."""
        parameters = [one for slot in self.slots.values() for entry in entries(slot).values() for one in _flat(entry)]
        found = {parameter.name: _members(unlimited(parameter.annotation)) for parameter in parameters}
        return {name: str in members for name, members in found.items() if {list, tuple} & {*map(get_origin, members)}}

    def _messages(self, error: ValidationError, parameters: Mapping[str, Any]) -> list[str]:
        """One message for each setting; of the members of a union, what each would take.

        Of a component inside a component, each parameter is a setting, such as `objective.of.mask_rate` or
        `optimizer.phases.1.min_ratio`.
        """
        found: dict[str, list[str]] = {}
        values: dict[str, Any] = {}
        whole: list[str] = []
        for details in error.errors(include_url=False):
            parameter = parameters[str(details["loc"][0])]
            inside = {"one": 2, "many": 3}.get(parameter.arity, 1) if parameter.slot is not None else 1
            key = ".".join(str(part) for part in details["loc"][:inside])
            if inside > 1 and details["type"] == "extra_forbidden":
                whole.append(f"{self.name}.{key}: there is no such setting; see `blockformer blocks {parameter.slot}`")
                continue
            if details["type"] in ("block", "no_type", "unknown_block"):
                whole.append(f"{self.name}.{key}: {details['msg']}")
                continue
            values.setdefault(key, details["input"])
            found.setdefault(key, []).append(_WANTED.get(details["type"]) or _expected(details["msg"]))
        return whole + [
            f"{self.name}.{key} must be {' or '.join(dict.fromkeys(wanted))}, not {quoted(values[key])}"
            for key, wanted in found.items()
        ]


def unused_by(entry: Entry) -> frozenset[str]:
    """The common settings of its group that mean nothing for a component."""
    return getattr(entry.block, "unused", frozenset())


def unlimited(annotation: Any) -> Any:
    """A type without the limits of its values, which :meth:`OptionGroup.make` checks."""
    if get_origin(annotation) is Annotated:
        return unlimited(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(unlimited(member) for member in get_args(annotation))]  # noqa: UP007
    return annotation


def _option(parameter: Any) -> Parameter:
    """A component's parameter as an option; a tuple is given as a list, and other components as they are in recipes."""
    annotation, default = unlimited(parameter.annotation), parameter.default
    if parameter.slot:
        annotation = list[Any] if parameter.arity == "many" else Any
    elif get_origin(annotation) is tuple:
        annotation = list[unlimited(get_args(annotation)[0])]
    default = list(default) if isinstance(default, tuple) else default
    return Parameter(parameter.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flat(entry: Entry) -> Iterator[Any]:
    return (parameter for parameter in entry.parameters.values() if parameter.slot is None)


def _part(options: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The options with these names; a list for a parameter that is a tuple becomes one."""
    return {
        key: tuple(value) if isinstance(value, list) and get_origin(names[key].annotation) is tuple else value
        for key, value in options.items()
        if key in names
    }


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


_WANTED = {"int_type": "an integer", "float_type": "a number", "bool_type": "true or false", "string_type": "text"}
_WANTED |= {"list_type": "a list", "tuple_type": "a list"}


def _expected(message: str) -> str:
    text = message.removeprefix("Input should be ").removeprefix("Input should ")
    return re.sub(r"0\.0{5,}\d+", lambda found: f"{float(found[0]):.3g}", text)


def in_words(names: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, end = names
    return f"{', '.join(others)} {last} {end}" if others else end
