"""Formulas in plain text become MathML, and one that cannot be read is refused with its place."""

import re
import xml.etree.ElementTree as ET

import pytest

import blockformer.cli.components  # noqa: F401  (importing registers)
import blocks  # noqa: F401
import registry
from registry.formula import FormulaError, inline_mathml, mathml

CASES = {
    "a / b * c": "<mrow><mfrac><mi>a</mi><mi>b</mi></mfrac><mo>⋅</mo><mi>c</mi></mrow>",
    "a * 1 / b": "<mrow><mi>a</mi><mo>⋅</mo><mfrac><mn>1</mn><mi>b</mi></mfrac></mrow>",
    "(a + b) / 2": "<mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mn>2</mn></mfrac>",
    "M_(t-1)^T": "<msubsup><mi>M</mi><mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow><mo>⊤</mo></msubsup>",
    "e^(-x/2)": (
        '<msup><mi>e</mi><mrow><mo form="prefix">−</mo><mrow><mi>x</mi><mo>/</mo><mn>2</mn></mrow></mrow></msup>'
    ),
    "sqrt(eps)": "<msqrt><mrow><mi>ε</mi></mrow></msqrt>",
    "max_t x": "<mrow><munder><mi>max</mi><mi>t</mi></munder>{thin}<mi>x</mi></mrow>",
    "sum_(t=1)^T": "<munderover><mo>∑</mo><mrow><mi>t</mi><mo>=</mo><mn>1</mn></mrow><mi>T</mi></munderover>",
    "S'": '<mrow><mi>S</mi><mo lspace="0" rspace="0">′</mo></mrow>',
    "base_width": "<mi>base_width</mi>",
}
NAMES = [(slot, name) for slot in registry.slots() for name in registry.entries(slot)]
OPTIONS = [
    (slot, name)
    for slot in ("objective", "optimizer", "schedule", "tokenizer", "dataset")
    for name in registry.entries(slot)
]
IN_WORDS = {  # what they do is no formula
    *(("tokenizer", name) for name in ("bytes", "file", "wordpiece")),
    *(("dataset", name) for name in ("chat", "cldr", "docstrings", "hub", "pairs", "text", "token_files")),
    *(("dataset", name) for name in ("table", "table_classes", "table_pairs", "table_scores")),
}


@pytest.mark.parametrize("text", CASES)
def test_a_formula_is_typeset(text: str) -> None:
    expected = CASES[text].replace("{thin}", '<mspace width="0.18em"/>')
    drawn = re.sub(r"</?math[^>]*>", "", inline_mathml(text))
    assert drawn == f"<mrow>{expected}</mrow>"


def test_an_absolute_value_and_an_applied_function_are_read() -> None:
    words = "".join(ET.fromstring(inline_mathml("f(|x - y|)^2")).itertext())
    assert words == "f\u2061(|x−y|)2"


def test_lines_stand_below_each_other_and_are_read_aloud_as_written() -> None:
    drawn = ET.fromstring(mathml("a = 1; b = 2\nc = 3"))
    assert len(drawn.findall(".//mtr")) == 3
    assert drawn.attrib["aria-label"] == "a = 1; b = 2; c = 3"


@pytest.mark.parametrize("text", ["", "a / ", "(a", "a)", "|a", "a $ b", "x_", "sqrt x"])
def test_a_formula_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(FormulaError):
        mathml(text)


@pytest.mark.parametrize(("slot", "name"), NAMES, ids=[f"{slot}/{name}" for slot, name in NAMES])
def test_every_block_of_a_recipe_has_a_formula(slot: str, name: str) -> None:
    assert ET.fromstring(mathml(registry.entries(slot)[name].block.formula)).tag == "math"


@pytest.mark.parametrize(("slot", "name"), OPTIONS, ids=[f"{slot}/{name}" for slot, name in OPTIONS])
def test_every_component_of_training_has_a_formula_unless_words_say_more(slot: str, name: str) -> None:
    formula = registry.entries(slot)[name].block.formula
    assert bool(formula) != ((slot, name) in IN_WORDS)
    assert not formula or ET.fromstring(mathml(formula)).tag == "math"
