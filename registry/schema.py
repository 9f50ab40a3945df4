"""JSON Schema of recipes, made from the registry, for editors, and descriptions of blocks for pages and messages.

Draft 7, which editors' YAML servers support. Every block has two definitions: one for a mapping that stands on its
own, and a *changed* one for a mapping that is laid over something the schema cannot see, below ``extends`` or ``like``:
there, a mapping without ``type`` may be of any block in the slot. What options of `blockformer fit` name has
definitions too, which no recipe refers to: a schema of configuration files can.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter

from registry.recipe import ROOT
from registry.registration import Entry, Parameter, entries, option_slots, slot_named, slots
from registry.text import details, prose, recipe_for, summary, type_in_words
from registry.types import FactoryMarker, factory_of, slot_of

Schema = dict[str, Any]
EXTENDS = "The recipe that this one changes: a path that starts from this file, or the name of a built-in recipe."
LIKE = "The key of the block beside this one that it starts from."


def schema() -> Schema:
    """The JSON Schema of a recipe, with every block that is registered now."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Blockformer recipe",
        "description": "A Transformer, block by block.",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": _any_block(ROOT, changed=True),
        "else": _any_block(ROOT),
        "definitions": dict(_definitions()),
    }


def parameter_type(annotation: Any, default: Any = None, *, changed: bool = False) -> Schema:
    """The schema of one parameter's values, without its description.

    Args:
        annotation: the parameter's, from the constructor.
        default: in the form of a recipe; it names the block of a mapping without ``type``.
        changed: the value is laid over another that the schema cannot see.
    """
    if factory_of(annotation) is None:
        return TypeAdapter(annotation).json_schema()
    origin, args = get_origin(annotation), get_args(annotation)
    if any(isinstance(item, FactoryMarker) for item in args[1:]):
        slot = slot_of(args[0])
        mapping = _mapping_name(slot, slot_named(slot).implied(default), changed)
        return {"title": recipe_for(slot), "anyOf": [_ref(slot), _ref(mapping)]}
    if hasattr(annotation, "__metadata__"):
        return parameter_type(args[0], default, changed=changed)
    if origin is tuple:
        return {"type": "array", "items": parameter_type(args[0], changed=changed)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": parameter_type(args[1], changed=changed)}
    return {"anyOf": [parameter_type(argument, default, changed=changed) for argument in args]}


def _definitions() -> Iterator[tuple[str, Schema]]:
    for slot in slots():
        for entry in entries(slot).values():
            yield _block_name(entry), _block(entry)
            yield _block_name(entry, changed=True), _block(entry, changed=True)
        yield slot, _names(slot)
        if slot != ROOT:
            yield _mapping_name(slot, changed=True), {"type": "object", **_any_block(slot, changed=True)}
    for slot in option_slots():
        yield slot, _names(slot)
        for entry in entries(slot).values():
            properties = {parameter.name: _property(entry, parameter, False) for parameter in entry.parameters.values()}
            yield _block_name(entry), {"description": summary(entry.block), "properties": properties}
    for slot, implied in sorted(_places(), key=str):
        yield _mapping_name(slot, implied), _mapping(slot, implied)


def _places() -> set[tuple[str, str | None]]:
    """Every slot that some parameter opens, with the block that a mapping there means without ``type``."""
    parameters = [p for slot in slots() for entry in entries(slot).values() for p in entry.parameters.values()]
    return {(p.slot, slot_named(p.slot).implied(p.default if p.arity == "one" else None)) for p in parameters if p.slot}


def _mapping(slot: str, implied: str | None) -> Schema:
    alone = _any_block(slot, implied)
    return {
        "type": "object",
        "if": {"required": ["like"]},
        "then": _ref(_mapping_name(slot, changed=True)),
        "else": alone,
    }


def _any_block(slot: str, implied: str | None = None, *, changed: bool = False) -> Schema:
    """A mapping whose ``type`` decides which block it describes, so that errors speak of that block only."""
    known = entries(slot)
    typed = {
        "properties": {"type": _ref(slot)},
        "allOf": [
            {"if": {"properties": {"type": {"const": name}}}, "then": _ref(_block_name(entry, changed=changed))}
            for name, entry in known.items()
        ],
    }
    untyped: Schema = {"required": ["type"], **typed}
    if changed:
        untyped = {"anyOf": [_ref(_block_name(entry, changed=True)) for entry in known.values()]}
    elif implied is not None:
        untyped = _ref(_block_name(known[implied]))
    return {"if": {"required": ["type"]}, "then": typed, "else": untyped}


def _names(slot: str) -> Schema:
    known = entries(slot)
    descriptions = [summary(entry.block) for entry in known.values()]
    return {"type": "string", "enum": list(known), "enumDescriptions": descriptions}


def _block(entry: Entry, *, changed: bool = False) -> Schema:
    properties: Schema = {"type": {"const": entry.name, "description": summary(entry.block)}}
    if changed:
        key, description = ("extends", EXTENDS) if entry.slot == ROOT else ("like", LIKE)
        properties[key] = {"type": "string", "description": description}
    properties |= {parameter.name: _property(entry, parameter, changed) for parameter in entry.parameters.values()}
    return {"description": summary(entry.block), "properties": properties, "additionalProperties": False}


def _property(entry: Entry, parameter: Parameter, changed: bool) -> Schema:
    if changed and not parameter.slot:
        return _ref(f"{_block_name(entry)}/properties/{parameter.name}")
    found = parameter_type(parameter.annotation, parameter.default, changed=changed)
    return {"description": prose(parameter.description), "default": parameter.default, **found}


def _block_name(entry: Entry, *, changed: bool = False) -> str:
    return f"{'changed.' if changed else ''}{entry.slot}.{entry.name}"


def _mapping_name(slot: str, implied: str | None = None, changed: bool = False) -> str:
    return f"changed.{slot}" if changed else f"{slot}.mapping" if implied is None else f"{slot}.mapping.{implied}"


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


@dataclass(frozen=True)
class DescribedParameter:
    """One parameter as a recipe's author reads it; ``slot`` is the slot that it opens, if any."""

    name: str
    type: str
    slot: str | None
    default: Any
    description: str


@dataclass(frozen=True)
class DescribedBlock:
    """One block as the author of a recipe reads it."""

    slot: str
    name: str
    summary: str
    details: str
    paper: str
    formula: str
    abilities: tuple[str, ...]
    parameters: tuple[DescribedParameter, ...]


def catalogue() -> dict[str, list[DescribedBlock]]:
    """Every block of every slot, both in alphabetical order."""
    known = sorted([*slots(), *option_slots()])
    return {slot: [describe(entry) for _, entry in sorted(entries(slot).items())] for slot in known}


def describe(entry: Entry) -> DescribedBlock:
    """A registered block in words."""
    parameters = (
        DescribedParameter(p.name, type_in_words(parameter_type(p.annotation)), p.slot, p.default, prose(p.description))
        for p in entry.parameters.values()
    )
    block = entry.block
    return DescribedBlock(
        entry.slot,
        entry.name,
        summary(block),
        details(block),
        block.paper,
        block.formula,
        tuple(block.capabilities.describe()),
        tuple(parameters),
    )


def keys_of(slot: str) -> list[str]:
    """The recipe keys that open a slot, the most frequent first."""
    found = [
        p.name for other in slots() for e in entries(other).values() for p in e.parameters.values() if p.slot == slot
    ]
    return sorted(dict.fromkeys(found), key=lambda key: (-found.count(key), found.index(key)))
