"""JSON Schema of recipes, made from the registry, so that an editor completes, explains and checks them.

Draft 7, which is what editors' YAML servers know. Every block has two definitions. The full one is for what stands on its own. The
one for a *change* is for what is laid over something that the schema cannot see (below ``extends`` or ``like``): there, a
mapping without ``type`` may be of any block in the slot.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast, get_args, get_origin

from pydantic import TypeAdapter

from registry.catalogue import summary
from registry.core import Entry, Parameter, entries, slots
from registry.factory import FactoryMarker, factory_of, slot_of
from registry.recipe import ROOT

Schema = dict[str, Any]
Mode = Literal["full", "change"]
EXTENDS: Schema = {"type": "string", "description": "The recipe that this one changes: a path from this file, or a name."}
LIKE: Schema = {"type": "string", "description": "The block beside this one that it starts from, by its key."}


def schema() -> Schema:
    """The JSON Schema of a recipe, with every block that is registered now."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Blockformer recipe",
        "description": "A Transformer, block by block.",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": _mapping(ROOT, "change"),
        "else": _mapping(ROOT, "full"),
        "definitions": dict(_definitions()),
    }


def parameter_type(annotation: Any, mode: Mode = "full", default: Any = None) -> Schema:
    """The schema of one parameter's values, without its description.

    Args:
        annotation: the parameter's, from the constructor.
        mode: whether it stands on its own or is laid over another value.
        default: what a recipe would say for the default, which names the block of a mapping without ``type``.
    """
    if factory_of(annotation) is None:
        return _plain(TypeAdapter(annotation).json_schema())
    origin, args = get_origin(annotation), get_args(annotation)
    if any(isinstance(item, FactoryMarker) for item in args[1:]):
        return _block(slot_of(args[0]), mode, default)
    if hasattr(annotation, "__metadata__"):
        return parameter_type(args[0], mode, default)
    if origin is tuple:
        return {"type": "array", "items": parameter_type(args[0], mode)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": parameter_type(args[1], mode)}
    return {"anyOf": [parameter_type(argument, mode, default) for argument in args]}


def _plain(found: Schema) -> Schema:
    return {"enum": [found["const"]]} if "const" in found else found


def _block(slot: str, mode: Mode, default: Any) -> Schema:
    """What fills a slot: the name of a block, or a mapping."""
    return {"anyOf": [{"$ref": f"#/definitions/{slot}"}, _mapping(slot, mode, default)]}


def _mapping(slot: str, mode: Mode, default: Any = None) -> Schema:
    """A mapping that describes a block; ``type`` decides which, and without one the default of the place is meant."""
    known = entries(slot)
    typed: Schema = {
        "required": ["type"],
        "properties": {"type": _names(slot)},
        "allOf": [_when({"properties": {"type": {"const": name}}}, _reference(entry, mode)) for name, entry in known.items()],
    }
    implied = _implied(slot, default)
    untyped: Schema = typed
    if mode == "change":
        untyped = {"anyOf": [_reference(entry, mode) for entry in known.values()]}
    elif implied is not None:
        untyped = _reference(known[implied], mode)
    full: Schema = {"if": {"required": ["type"]}, "then": typed, "else": untyped}
    if mode == "full" and slot != ROOT:
        full = {"if": {"required": ["like"]}, "then": _mapping(slot, "change"), "else": full}
    return {"type": "object", **full}


def _implied(slot: str, default: Any) -> str | None:
    name = cast("Mapping[str, Any]", default).get("type") if isinstance(default, Mapping) else default
    return name if isinstance(name, str) else next((entry.block.usual for entry in entries(slot).values()), None)


def _when(condition: Schema, then: Schema) -> Schema:
    return {"if": condition, "then": then}


def _names(slot: str) -> Schema:
    known = entries(slot)
    return {"enum": list(known), "enumDescriptions": [summary(entry.block) for entry in known.values()]}


def _reference(entry: Entry, mode: Mode) -> Schema:
    return {"$ref": f"#/definitions/{_name(entry, mode)}"}


def _name(entry: Entry, mode: Mode) -> str:
    return f"{entry.slot}.{entry.name}" + (".change" if mode == "change" else "")


def _definitions() -> Iterator[tuple[str, Schema]]:
    for slot in slots():
        if slot != ROOT:
            yield slot, {"type": "string", **_names(slot)}
        for entry in entries(slot).values():
            yield _name(entry, "full"), _definition(entry, "full")
            yield _name(entry, "change"), _definition(entry, "change")


def _definition(entry: Entry, mode: Mode) -> Schema:
    properties: Schema = {"type": {"const": entry.name, "description": summary(entry.block)}}
    if mode == "change":
        properties |= {"extends": EXTENDS} if entry.slot == ROOT else {"like": LIKE}
    properties |= {parameter.name: _property(parameter, mode) for parameter in entry.parameters.values()}
    return {
        "description": summary(entry.block),
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _property(parameter: Parameter, mode: Mode) -> Schema:
    found = parameter_type(parameter.annotation, mode, parameter.default)
    return {"description": parameter.description, "default": parameter.default, **found}
