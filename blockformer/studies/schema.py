"""JSON Schema of study files, so that an editor completes, explains and checks them."""

from collections.abc import Iterator
from typing import Any

from docstring_parser import parse
from pydantic import TypeAdapter

from blockformer.studies.fit_settings import DECIDED, actions_of, groups_of
from blockformer.studies.study_file import Match, StudyFile
from blockformer.training.components import Components
from registry import entries
from registry.text import prose

Schema = dict[str, Any]
PLAIN = {"type": ["string", "number", "boolean", "null", "array"]}


def study_schema() -> Schema:
    """The JSON Schema (draft 7) of a study file. Recipe keys and their values are checked by `compare` alone."""
    made = StudyFile.model_json_schema(ref_template="#/definitions/{model}")
    definitions = made.pop("$defs", {})
    _described(made, StudyFile)
    _described(definitions["Match"], Match)
    for names in ("variants", "tasks", "tiers"):
        made["properties"][names]["additionalProperties"] = False  # beside names that match
    made["properties"]["fit"] |= {"properties": _groups() | _evaluations(), "additionalProperties": False}
    made["properties"]["fit"].pop("default", None)
    made["properties"]["question"]["description"] = "What the study asks, in a sentence."
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Blockformer study",
        "description": "Variants of a model, and how they are trained and compared.",
        **{key: value for key, value in made.items() if key not in ("title", "description")},
        "definitions": definitions,
    }


def _described(schema: Schema, model: type) -> None:
    """Explain each key by the class's docstring, and leave out the titles that pydantic makes."""
    schema.pop("title", None)
    schema.pop("description", None)
    texts: dict[str, str] = {}
    for parameter in parse(model.__doc__ or "").params:
        for name in parameter.arg_name.split(", "):
            texts[name] = prose(parameter.description or "")
    for key, value in schema["properties"].items():
        value.pop("title", None)
        if key in texts:
            value["description"] = texts[key]


def _groups() -> dict[str, Schema]:
    """The settings of `fit` by group; those of components are of any of them."""
    groups: dict[str, dict[str, Schema]] = {}
    some = [Components.of({"dataset": dataset}, "causal_lm", {}) for dataset in entries("dataset")]
    some += [Components(some[0].dataset, tokenizer) for tokenizer in entries("tokenizer")]
    some += [Components(some[0].dataset, objective=objective) for objective in entries("objective")]
    some += [Components(some[0].dataset, optimizer=optimizer) for optimizer in entries("optimizer")]
    some += [Components(some[0].dataset, schedule=schedule) for schedule in entries("schedule")]
    for components in some:
        for group, key, schema in _settings(components):
            known = groups.setdefault(group, {})
            if key in known and _type(known[key]) != _type(schema):
                schema = {"anyOf": [_type(known[key]), _type(schema)], "description": known[key].get("description", "")}
            known[key] = schema
    return {
        group: {"type": "object", "properties": keys, "additionalProperties": False} for group, keys in groups.items()
    }


def _evaluations() -> dict[str, Schema]:
    """The evaluations by label; the parameters of each are checked by `compare` alone."""
    known = {"type": {"type": "string", "enum": list(entries("evaluation"))}, "every": {"type": ["integer", "null"]}}
    one = {"type": "object", "properties": known, "required": ["type"]}
    described = "What is measured in validations, by label, such as `{greedy: {type: generation}}`."
    return {"evaluations": {"type": "object", "additionalProperties": one, "description": described}}


def _settings(components: Components) -> Iterator[tuple[str, str, Schema]]:
    """Group, key and schema of each setting beside these components."""
    for group in groups_of(components):
        for key, action in actions_of(components, group).items():
            if f"{group}.{key}" in DECIDED:
                continue
            explained = isinstance(action.help, str) and group != "trainer"  # Lightning's texts change with its version
            description = {"description": prose(action.help)} if explained else {}
            yield group, key, _values(getattr(action, "_typehint", None) or action.type) | description


def _values(hint: Any) -> Schema:
    """The schema of a type; any plain value where the type is one of code."""
    try:
        made = TypeAdapter(hint).json_schema()
    except Exception:  # pydantic has no schema of it
        return dict(PLAIN)
    return dict(PLAIN) if "$defs" in made or not made else made


def _type(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key != "description"}
