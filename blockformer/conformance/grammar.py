"""The choices that recipes can make, and which pairs one recipe can make: a grammar derived from the registry."""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor

from blockformer.conformance.block_case import MAX_LENGTH
from blockformer.conformance.variants import is_training_only, options
from blocks.base import Init
from blocks.models.base import Model
from registry import Parameter, Spec, entries, parse, slots
from registry.spec import spec_of

Choice = str  # a block, "mixer/attention", or a parameter of one, "mixer/attention.window: 3"
Name = tuple[str, str]  # a slot and a block in it
PATTERNS: Mapping[str, Mapping[str, Any]] = {
    "pattern": {"pattern": ["a", "b"]},
    "first": {"first": ["a"], "pattern": ["b"]},
    "cut": {"pattern": ["a", "b"], "rest": "cut", "depth": 3},
}


NEVER: Mapping[str, str] = {"ties": "any", "neighbor_padding": "read"}
"""A value per key that no recipe has. Which of equal keys ``any`` chooses depends on padding and on the cache, and
neighbors that are ``read`` depend on padding."""
AT_MOST: Mapping[str, int] = {"block": MAX_LENGTH // 2}
"""Greatest value per key. A block longer than the text has no summary that anything attends to."""
AT_LEAST: Mapping[str, int] = {"trained_length": MAX_LENGTH}
"""Least value per key. Beyond ``trained_length``, the angles of ``dynamic`` and ``longrope`` depend on the length of
the text, and so change with padding and with every decoded token."""


@cache
def values(slot: str, name: str, key: str) -> tuple[Any, ...]:
    """The values to generate for a parameter: its options, its default, and defaults of parameters of the same name.

    The latter because numbers of heads in different blocks have to agree.
    """
    parameter = entries(slot)[name].parameters[key]
    found = options(parameter)
    if any(type(value) is int for value in found):
        found += [other.default for other in _namesakes(key) if type(other.default) is int]
    found = list(dict.fromkeys(_plain(value) for value in [*found, parameter.default])) if found else []
    found = [value for value in found if parameter.slot or _valid(slot, name, key, value)]
    found = [value for value in found if NEVER.get(key) != value]
    found = [value for value in found if key not in AT_MOST or value <= AT_MOST[key]]
    return tuple(value for value in found if key not in AT_LEAST or value >= AT_LEAST[key])


def blocks_of(parameter: Parameter) -> list[str]:
    """The blocks of the slot of a parameter; none if it takes no block, or a mapping of blocks."""
    opens = parameter.slot is not None and parameter.arity == "one" and not is_training_only(parameter)
    return list(entries(str(parameter.slot))) if opens else []


def has_named_variant(slot: str, name: str, parameter: Parameter) -> bool:
    """Whether another parameter takes a mapping of blocks of the same slot, as ``layers`` does beside ``layer``."""
    others = entries(slot)[name].parameters.values()
    return parameter.arity == "one" and any(o.arity == "named" and o.slot == parameter.slot for o in others)


def label(slot: str, name: str, key: str, value: Any) -> Choice:
    """The name of a choice."""
    if isinstance(value, Mapping):
        value = cast("Mapping[str, Any]", value)["type"]
    return f"{slot}/{name}.{key}: {value.entry.name if isinstance(value, Spec) else value}"


def holds_blocks(choice: Choice) -> bool:
    """Whether a choice is a block, or a block for a parameter, that takes blocks itself."""
    name, _, setting = choice.partition(".")
    slot, _, block = name.partition("/")
    if setting:
        key, _, block = setting.partition(": ")
        slot = entries(slot)[name.partition("/")[2]].parameters[key].slot or ""
    found = entries(slot).get(block) if slot else None
    return found is not None and any(blocks_of(parameter) for parameter in found.parameters.values())


def built_from(model: Model) -> frozenset[int]:
    """The ids of the specs that the modules of a model, and its initial values, were built from."""
    return frozenset(id(spec) for part in [*model.modules(), *_nested(model.init)] if (spec := spec_of(part)))


def _nested(init: Init) -> Iterator[Init]:
    """An init and those that it uses."""
    yield init
    for value in vars(init).values():
        if isinstance(value, Init):
            yield from _nested(value)


def choices_of(spec: Spec[Any], used: frozenset[int] | None = None) -> frozenset[Choice]:
    """All choices of a recipe, for the blocks that were built or, without ``used``, for all that it describes."""
    if used is None:
        used = frozenset(id(part) for _, part in spec.walk())
    return frozenset(choice for _, part in spec.walk() if id(part) in used for choice in _choices_of(part, used))


def _choices_of(spec: Spec[Any], used: frozenset[int]) -> Iterator[Choice]:
    slot, name = spec.entry.slot, spec.entry.name
    yield f"{slot}/{name}"
    owned = spec.entry.parameters
    for path, child in spec.children():
        if id(child) in used or getattr(child.entry.block, "is_noop", False):
            same = (key for key, other in owned.items() if other.slot == child.entry.slot and other.arity == "one")
            key = str(path[0]) if len(path) == 1 else next(same, str(path[0]))
            yield from (label(slot, name, key, child), f"{child.entry.slot}/{child.entry.name}")
    for key, value in spec.params:
        if owned[key].slot is None or value is None:
            yield label(slot, name, key, value)
    if "pattern" in owned and (pattern := _pattern(spec)):
        yield label(slot, name, "pattern", pattern)


def _pattern(spec: Spec[Any]) -> str | None:
    params = dict(spec.params)
    if not params["pattern"]:
        return None
    return "first" if params["first"] else "cut" if params["rest"] == "cut" else "pattern"


@dataclass(frozen=True)
class Grammar:
    """All choices, numbered, and which of them are possible inside each block.

    Attributes:
        choices: all choices.
        within: for each slot and name, (N,) bool: the choices possible in the block and its children.
    """

    choices: tuple[Choice, ...]
    within: Mapping[Name, Tensor]

    @cached_property
    def number(self) -> Mapping[Choice, int]:
        """The index of every choice."""
        return {choice: index for index, choice in enumerate(self.choices)}

    @cached_property
    def together(self) -> Tensor:
        """(N, N) bool, above the diagonal: pairs that one recipe could make if no block refused them.

        Such a pair belongs to two parameters of some block, or one of them is the block itself, or they belong to two
        named layers of a stack.
        """
        table = torch.zeros(len(self.choices), len(self.choices), dtype=torch.bool)
        for slot, name in self.within:
            every = _only(self.number, f"{slot}/{name}")
            for parameter in entries(slot)[name].parameters.values():
                part = torch.zeros_like(every)
                for choice, inside in _branches(slot, name, parameter, self.number, self.within):
                    here = _only(self.number, choice)
                    table[here] |= inside
                    part |= here | inside
                if has_named_variant(slot, name, parameter):
                    table[part] |= part
                table[part] |= every
                every |= part
        return (table | table.T).triu(1)

    def numbers(self, choices: Iterable[Choice]) -> Tensor:
        """The sorted indices of the choices that the grammar has."""
        return torch.tensor(sorted(self.number[choice] for choice in choices if choice in self.number))

    def reaches(self, slot: str, name: str, choice: Choice) -> bool:
        """Whether a choice is possible in a block or its children."""
        return choice in self.number and bool(self.within[slot, name][self.number[choice]])

    @classmethod
    def read(cls, never: Container[Choice] = ()) -> "Grammar":
        """The grammar of all registered blocks, without the choices in ``never``."""
        names = [(slot, name) for slot in generated_slots() for name in entries(slot)]
        own = (choice for slot, name in names for choice in _own(slot, name) if choice not in never)
        number = {choice: index for index, choice in enumerate(dict.fromkeys(own))}
        within = {name: torch.zeros(len(number), dtype=torch.bool) for name in names}
        before = -1
        while before != (before := sum(int(reached.sum()) for reached in within.values())):
            for slot, name in names:
                within[slot, name] |= _only(number, f"{slot}/{name}")
                for parameter in entries(slot)[name].parameters.values():
                    for choice, inside in _branches(slot, name, parameter, number, within):
                        within[slot, name] |= _only(number, choice) | inside
        return cls(tuple(number), within)


def generated_slots() -> list[str]:
    """The slots that generated recipes fill: not those of mappings and sequences, such as adapters."""
    found = ["model"]
    for slot in found:
        opened = (p for entry in entries(slot).values() for p in entry.parameters.values() if blocks_of(p))
        found += dict.fromkeys(str(p.slot) for p in opened if p.slot not in found)
    return sorted(found)


def _own(slot: str, name: str) -> Iterator[Choice]:
    """The choices of a block itself."""
    yield f"{slot}/{name}"
    for parameter in entries(slot)[name].parameters.values():
        yield from (label(slot, name, parameter.name, value) for value in _labels(slot, name, parameter.name))


def _labels(slot: str, name: str, key: str) -> tuple[Any, ...]:
    return tuple(PATTERNS) if key == "pattern" else values(slot, name, key)


def _branches(
    slot: str, name: str, parameter: Parameter, number: Mapping[Choice, int], within: Mapping[Name, Tensor]
) -> Iterator[tuple[Choice, Tensor]]:
    """Each choice of a parameter, and (N,) bool, the choices possible inside it."""
    blocks = blocks_of(parameter)
    for value in _labels(slot, name, parameter.name):
        choice = label(slot, name, parameter.name, value)
        if choice in number:
            inside = within[str(parameter.slot), str(value)] if value in blocks else None
            yield choice, torch.zeros(len(number), dtype=torch.bool) if inside is None else inside


def _only(number: Mapping[Choice, int], choice: Choice) -> Tensor:
    """(N,) True at this choice, if there is it."""
    table = torch.zeros(len(number), dtype=torch.bool)
    if choice in number:
        table[number[choice]] = True
    return table


def _namesakes(key: str) -> Iterator[Parameter]:
    every = (entry for slot in slots() for entry in entries(slot).values())
    yield from (entry.parameters[key] for entry in every if key in entry.parameters)


def _valid(slot: str, name: str, key: str, value: Any) -> bool:
    """Whether the value is valid with all other parameters at their defaults."""
    try:
        parse(slot, {"type": name, key: value})
    except ValidationError:
        return False
    return True


def _plain(value: Any) -> Any:
    """The name of a block that a mapping describes; other values unchanged."""
    return cast("Mapping[str, Any]", value)["type"] if isinstance(value, Mapping) else value
