"""The JSON Schema of studies takes what `compare` takes, and refuses what it refuses, as far as an editor can know."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from blockformer.studies.schema import study_schema
from blockformer.studies.study import read_study
from registry import RecipeError
from registry.strict_yaml import as_plain, parse_text, read_yaml
from tests.docs.snippets import ROOT, snippets
from tests.studies.made_up import STUDY

SCHEMA = json.loads(json.dumps(study_schema()))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
SHIPPED = sorted((ROOT / "studies").glob("*.yaml"))
WRITTEN = [
    *(snippet.code for snippet in snippets((ROOT / "docs/compare.md").read_text()) if "variants:" in snippet.code),
    "base: a\ngrid: {dim: [1, 2]}\nfit: {trainer: {max_steps: 10, precision: bf16-mixed}}",
    "base: a\nablate: [dim]\nreference: b\nseeds: [1, 2]\nmatch: {what: flops, by: {b: [dim]}, length: null}",
]


def accepted(tree: Any) -> bool:
    return VALIDATOR.is_valid(json.loads(json.dumps(as_plain(tree))))


def test_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("text", WRITTEN)
def test_takes_studies(text: str) -> None:
    assert accepted(parse_text(text, "study"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_takes_the_studies_that_ship_which_name_it_for_editors(path: Path) -> None:
    assert accepted(read_yaml(path))
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"bas": "gpt2"},
        {"base": 3},
        {"seeds": 0},
        {"seeds": [-1]},
        {"smallest": "small"},
        {"figure": "loss"},
        {"variants": {"../up": {}}},
        {"match": {"what": "size"}},
        {"match": {"wat": "flops"}},
        {"vary": ["everything"]},
        {"fit": {"optimiser": {}}},
        {"fit": {"trainer": {"max_epochs": 3}}},
        {"fit": {"data": {"length": "long"}}},
        {"fit": {"data": {"seed": 1}}},
        {"learning_rates": [0]},
    ],
    ids=str,
)
def test_refuses_what_compare_refuses(changes: dict[str, Any]) -> None:
    assert accepted(STUDY)
    assert not accepted(STUDY | changes)
    with pytest.raises(RecipeError):
        read_study(STUDY | changes)


def test_explains_every_key() -> None:
    keys = SCHEMA["properties"] | SCHEMA["definitions"]["Match"]["properties"]
    assert [name for name, of in keys.items() if not of.get("description")] == []
    data = SCHEMA["properties"]["fit"]["properties"]["data"]["properties"]
    assert data["length"]["description"]
    assert data["max_bytes"]["description"]  # an option of one dataset
