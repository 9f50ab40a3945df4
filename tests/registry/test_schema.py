"""The JSON Schema takes what the registry takes, and refuses what it refuses, as far as an editor can know."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

import blocks  # noqa: F401  (registers)
import registry
from registry.schema import schema
from registry.strict_yaml import as_plain, read_yaml
from tests.recipes.releases import DISTINCT

SCHEMA = json.loads(json.dumps(schema()))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
RECIPES = {name: registry.builtin_recipes()[name] for name in DISTINCT}


def as_json(tree: Any) -> Any:
    return json.loads(json.dumps(as_plain(tree)))


def accepted(tree: Any) -> bool:
    return VALIDATOR.is_valid(as_json(tree))


def decoder(**layer: Any) -> dict[str, Any]:
    return {"type": "decoder_only", "decoder": {"layer": layer}}


def changed_everywhere(tree: Any, named: bool = False) -> Iterator[Any]:
    """The tree with one key misspelt, for each that is not a ``named`` child's, and with one scalar of another kind."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if isinstance(tree, dict) and not named:
            yield {f"{other}x" if other == key else other: item for other, item in tree.items()}
        nested = isinstance(value, dict | list)
        variants = changed_everywhere(value, key == "layers") if nested else [{"no": "such thing"}]
        for variant in variants:
            yield {**tree, key: variant} if isinstance(tree, dict) else [*tree[:key], variant, *tree[key + 1 :]]


def test_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", RECIPES)
def test_takes_every_recipe_and_its_canonical_form(name: str) -> None:
    assert accepted(read_yaml(RECIPES[name]))
    assert accepted(registry.load_recipe(name).dump())


@pytest.mark.parametrize("name", RECIPES)
def test_refuses_every_recipe_with_any_key_misspelt_or_any_value_of_another_kind(name: str) -> None:
    variants = list(changed_everywhere(as_json(read_yaml(RECIPES[name]))))
    assert len(variants) > 5
    assert [variant for variant in variants if accepted(variant)] == []


GOOD = {
    "a name": decoder(mixer="attention"),
    "a mapping with its type": decoder(mixer={"type": "attention", "heads": 4}),
    "a mapping without type where a default is implied": decoder(mixer={"heads": 4}, residual={"norm": {"eps": 1e-3}}),
    "null where it is allowed": decoder(mixer={"window": None, "qk_norm": None}),
    "an integer for a number": decoder(mixer={"scale": 1}),
    "a word or a number": {"type": "decoder_only", "embedding": {"scale": "sqrt_dim"}},
    "a list of words": decoder(mixer={"bias": ["q", "out"]}),
    "a sibling to start from": {"type": "encoder_decoder", "encoder": {"depth": 3}, "decoder": {"like": "encoder"}},
    "a change of what another recipe says": {"extends": "gpt2", "decoder": {"layer": {"mixer": {"heads": 3}}}},
    "a change without the type of the block": {"extends": "llama3_8b", "head": {"bias": True}},
}


@pytest.mark.parametrize("tree", GOOD.values(), ids=GOOD)
def test_takes(tree: dict[str, Any]) -> None:
    assert accepted(tree)


@pytest.mark.parametrize("tree", [tree for tree in GOOD.values() if "extends" not in tree])
def test_takes_only_what_the_registry_takes(tree: dict[str, Any]) -> None:
    registry.load_recipe(tree)


BAD = {
    "no type of the model": {"dim": 64},
    "no such model": {"type": "decoder"},
    "no such block": decoder(mixer="attenton"),
    "a block of another slot": decoder(mixer="mlp"),
    "a parameter of another block": decoder(feedforward={"type": "none", "hidden": 4}),
    "a parameter of another block, without type": decoder(feedforward={"hiden": 4}),
    "null where a block must be": decoder(mixer=None),
    "a mapping without type where nothing is implied": decoder(mixer={"qk_norm": {"eps": 1e-3}}),
    "zero heads": decoder(mixer={"heads": 0}),
    "a fraction of heads": decoder(mixer={"heads": 1.5}),
    "a probability of one": decoder(mixer={"dropout": 1.0}),
    "a number for a switch": decoder(mixer={"bias": 1}),
    "an unknown word": decoder(mixer={"backend": "cuda"}),
    "a list for a block": decoder(mixer=["attention"]),
    "like for a model": {"type": "decoder_only", "like": "gpt2"},
    "extends inside a block": {"type": "decoder_only", "decoder": {"extends": "gpt2"}},
    "a misspelt key in a change": {"extends": "gpt2", "decoder": {"layer": {"mixer": {"head": 3}}}},
    "keys of two blocks in a change": {
        "extends": "gpt2",
        "decoder": {"layer": {"residual": {"type": "pre", "eps": 1}}},
    },
    "a list of recipes to extend": {"extends": ["gpt2"]},
}


@pytest.mark.parametrize("tree", BAD.values(), ids=BAD)
def test_refuses(tree: dict[str, Any]) -> None:
    assert not accepted(tree)


@pytest.mark.parametrize("tree", [tree for tree in BAD.values() if "extends" not in str(tree)])
def test_refuses_only_what_the_registry_refuses(tree: dict[str, Any]) -> None:
    with pytest.raises(registry.RecipeError):
        registry.load_recipe(tree)


def test_explains_every_parameter() -> None:
    definitions = {name: found for name, found in SCHEMA["definitions"].items() if "properties" in found}
    silent = [
        f"{name}.{key}"
        for name, found in definitions.items()
        for key, value in found["properties"].items()
        if not value.get("description") and "$ref" not in value
    ]
    assert definitions
    assert silent == []
