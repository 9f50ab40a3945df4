"""Recipes from strangers: one line for each problem, nothing that a terminal acts on, and bounded work."""

import time
from pathlib import Path
from typing import Any

import pytest

import blocks  # noqa: F401  (registers what recipes name)
from registry import RecipeError, load_recipe
from registry.errors import MOST_PROBLEMS
from registry.merge import dotted, split_override, split_path
from registry.text import printable, shortened, terminal_text

BASE = "type: decoder_only\ndim: 32\nvocab_size: 64\nmax_length: 32\n"
DECODER = "decoder: {depth: 2, layers: {a: {}, b: {}}, pattern: [a, b]}\n"


def _error(text: str | bytes, folder: Path) -> str:
    file = folder / "r.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"a\\e[31mok\\nfake: ok": 1', "text with the control character U+001B"),
        ('dim: "\\n"', "text with the control character U+000A"),
        ('"\\uD800": 1', "text with the control character U+D800"),
        ('"\\u202e": 1', "text with the control character U+202E"),
        ("a: \x1b[2J", "contains the control character U+001B; remove it"),
        (f"{'k' * 1000}: 1", "a key of 1,000 characters; a key has at most 200"),
        (f"dim: {'9' * 5000}", "a whole number of 5000 digits is above 9223372036854775807"),
        ("dim: 9223372036854775808", "a whole number of 19 digits is above 9223372036854775807"),
        (f"dim: 0x{'f' * 5000}", "above 9223372036854775807"),
        ("dim: 1e39", "1e+39 is above 3.4e+38, the largest number of a float32"),
        ("dim: !!int abc", "tag 'tag:yaml.org,2002:int' is not allowed"),
        ("dim: !!str 3", "is not allowed: a recipe is plain data; remove it"),
        ("dim: ! 3", "tag '!' is not allowed"),
        (f"a: {'[' * 5000}", "too deeply nested"),
        ("&a {b: *a}", "too deeply nested"),
    ],
)
def test_what_no_recipe_needs_is_refused_in_one_printable_line(text: str, said: str, tmp_path: Path) -> None:
    answer = _error(text, tmp_path)
    assert said in answer
    assert answer.isprintable()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_number_must_be_finite(value: float) -> None:
    with pytest.raises(RecipeError, match=r"eps: must be a finite number, not -?\.(inf|nan)"):
        load_recipe("tiny_decoder", {"decoder.norm.eps": value})
    with pytest.raises(RecipeError, match="by: must be a finite number"):
        load_recipe("tiny_decoder", {"decoder.layer.residual": {"type": "scaled", "by": value}})


def test_a_type_that_is_no_name_is_refused() -> None:
    with pytest.raises(RecipeError, match=r'no mixer is called \["a"\]'):
        load_recipe("tiny_decoder", ["decoder.layer.mixer.type=[a]"])


@pytest.mark.parametrize("tree", [{"\x1b": 1}, {1: 2}, {"dim": 2**63}, {"dim": "\n"}, {"a" * 201: 1}])
def test_a_mapping_is_held_to_the_bounds_of_a_file(tree: dict[Any, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(tree)
    assert str(caught.value).isprintable()


def test_a_mapping_that_contains_itself_is_refused() -> None:
    tree: dict[str, Any] = {"type": "decoder_only"}
    tree["decoder"] = tree
    with pytest.raises(RecipeError, match="too deeply nested"):
        load_recipe(tree)


def test_the_first_problems_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    answer = _error(BASE + "\n".join(f"k{index}: 1" for index in range(500)), tmp_path)
    *lines, last = answer.splitlines()
    assert len(lines) == MOST_PROBLEMS
    assert last == f"and {500 - MOST_PROBLEMS} more problems"


@pytest.mark.slow
def test_a_large_recipe_is_refused_in_bounded_time(tmp_path: Path) -> None:
    begin = time.process_time()
    assert "is too large" in _error(BASE + "\n".join(f"k{index}: 1" for index in range(72_000)), tmp_path)
    layers = ", ".join(f"k{index}: {{x: 1}}" for index in range(4000))
    assert "more problems" in _error(f"{BASE}decoder: {{depth: 1, layers: {{{layers}}}, pattern: [k1]}}", tmp_path)
    chain = ", ".join(f"k{index}: {{like: k{index + 1}}}" for index in range(3000))
    answer = _error(f"{BASE}decoder: {{depth: 1, layers: {{{chain}, k3000: {{}}}}, pattern: [k1]}}", tmp_path)
    assert "is a chain of more than 100 references" in answer
    assert time.process_time() - begin < 20


@pytest.mark.parametrize("source", ["x" * 5000, "x/" * 2500, "x" * 5000 + ".yaml", "\ud800.yaml", "a\0.yaml"])
def test_a_text_that_is_no_path_is_no_recipe(source: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no") as caught:
        load_recipe(source)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    if source.isprintable():
        assert "there is no" in _error(f"{BASE}extends: {source}", tmp_path)


def test_a_key_with_a_dot_is_overridden_in_quotes(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(BASE + "decoder: {depth: 2, layers: {a.b: {}, 'c=d': {}}, pattern: [a.b, 'c=d']}")
    for quote in "'\"":
        keys = [f"decoder.layers.{quote}a.b{quote}.mixer.heads=2", f"decoder.layers.{quote}c=d{quote}.mixer.heads=1"]
        layers = load_recipe(file, keys).dump()["decoder"]["layers"]
        assert (layers["a.b"]["mixer"]["heads"], layers["c=d"]["mixer"]["heads"]) == (2, 1)
    with pytest.raises(RecipeError, match=r'decoder\.layers\."a\.b"\.mixer\.head: '):
        load_recipe(file, ['decoder.layers."a.b".mixer.head=2'])


@pytest.mark.parametrize("path", [["a"], ["a", "b"], ["a.b", "c"], ["a=b"], ['a"b', "'"], ["a b", "é"], ["a\\", "b"]])
def test_a_path_is_read_back_from_its_text(path: list[str]) -> None:
    assert split_path(dotted(path)) == path
    assert split_override(f"{dotted(path)}=x=y") == (dotted(path), "x=y")


def test_what_a_terminal_acts_on_is_escaped() -> None:
    assert printable("a\x1b[31m\nb\ud800\u2028é") == "a\\x1b[31m\\nb\\ud800\\u2028é"
    assert terminal_text("a\tb\n\x1b[2Jé\u202e\u00a0") == "a\tb\n\\x1b[2Jé\\u202e\u00a0"
    assert len(shortened("x" * 5000)) < 310
