"""Blocks, types and values in words."""

from typing import Annotated, Any, Literal

import pytest

import blocks  # noqa: F401  (registers)
from blocks.base import Factory, Layer, Norm
from registry import NonNegative, Positive, PositiveFloat, Probability, Runtime, entries, slot_named, slots
from registry.schema import catalogue, describe, keys_of, parameter_type
from registry.text import as_yaml, details, summary, type_in_words

TYPES = {
    "positive integer": Positive,
    "positive integer or null": Positive | None,
    "integer from 0": NonNegative,
    "integer": int,
    "positive number": PositiveFloat,
    "number >= 0 and < 1": Probability,
    "true or false": bool,
    "text": str,
    "a, b or c": Literal["a", "b", "c"],
    "only": Literal["only"],
    "auto or eager": Annotated[Literal["auto", "eager"], Runtime()],
    "true or false or list of q or k": bool | tuple[Literal["q", "k"], ...],
    "recipe for a norm": Factory[Norm],
    "recipe for a norm or null": Factory[Norm] | None,
    "list of recipe for a norm": tuple[Factory[Norm], ...],
    "names, each with its recipe for a layer or null": dict[str, Factory[Layer]] | None,
}


@pytest.mark.parametrize(("words", "annotation"), TYPES.items(), ids=TYPES)
def test_a_type_reads_as_prose(words: str, annotation: Any) -> None:
    assert type_in_words(parameter_type(annotation)) == words


VALUES = [
    ("null", None),
    ("true", True),
    ("false", False),
    ("8", 8),
    ("0.1", 0.1),
    ("1", 1.0),
    ("1e-5", 1e-5),
    ("1e16", 1e16),
    ("rms", "rms"),
    ("[q, out]", ("q", "out")),
    ("{type: rms, eps: 1e-6}", {"type": "rms", "eps": 1e-6}),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_a_value_is_shown_as_a_recipe_would_say_it(text: str, value: Any) -> None:
    assert as_yaml(value) == text


def test_a_docstring_is_cut_after_its_first_sentence() -> None:
    class Documented:
        """Scale ``x``: x / 2.5. Then
        stop.

        More.

        Args:
            x: something.
        """

    assert summary(Documented) == "Scale `x`: x / 2.5."
    assert details(Documented) == "Then stop. More."


def test_a_block_is_described_with_its_parameters() -> None:
    found = describe(entries("mixer")["attention"])
    by_name = {parameter.name: parameter for parameter in found.parameters}
    assert (by_name["kv_heads"].type, by_name["kv_heads"].default) == ("positive integer or null", None)
    assert by_name["positions"].slot == "attention_positions"
    assert "Vaswani" in found.paper


def test_every_block_says_what_it_computes_and_every_parameter_what_it_means() -> None:
    found = [block for known in catalogue().values() for block in known]
    silent = [f"{block.slot}/{block.name}" for block in found if not block.summary]
    silent += [f"{b.slot}/{b.name}.{p.name}" for b in found for p in b.parameters if not p.description]
    assert len(found) > 30
    assert silent == []


@pytest.mark.parametrize("slot", slots())
def test_every_slot_has_a_meaning_and_a_key_in_recipes(slot: str) -> None:
    assert slot_named(slot).description.endswith(".")
    assert keys_of(slot) or slot == "model"
