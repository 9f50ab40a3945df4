"""Wrong recipes: each answer names file, line, key and remedy, and all come at once."""

from pathlib import Path

import pytest

import blockformer as bf
from registry import RecipeError, load_recipe

BASE = "type: decoder_only\ndim: 32\nvocab_size: 100\n"
NAMED = BASE + "decoder:\n  depth: 4\n  layers:\n    a: {}\n    b: {like: LIKE}\n  pattern: PATTERN\n"


def layer(text: str) -> str:
    return BASE + f"decoder:\n  layer:\n    {text}\n"


MISTAKES = {
    "a misspelt block": (layer("mixer: attenton"), "r.yaml:6: decoder.layer.mixer: no mixer is called", "'attention'?"),
    "a misspelt type": (layer("mixer: {type: atention}"), "r.yaml:6: decoder.layer.mixer: no mixer", "'attention'?"),
    "a misspelt key": (BASE + "decoder:\n  depht: 3\n", "r.yaml:5: decoder.depht:", "did you mean 'depth'?"),
    "a key that only a block has that is not built": (
        BASE + "decoder:\n  layer:\n    mixer: {type: linear, kv_heads: 2}\n",
        "r.yaml:6: decoder.layer.mixer.kv_heads:",
        "mixer 'linear' has no parameter 'kv_heads'; did you mean 'heads'?",
    ),
    "a key too high": (BASE + "heads: 4\n", "r.yaml:4: heads:", "it belongs in 'decoder.layer.mixer.heads'"),
    "a key half way": (
        BASE + "decoder:\n  kv_heads: 1\n",
        "r.yaml:5: decoder.kv_heads:",
        "'decoder.layer.mixer.kv_heads'",
    ),
    "a key too deep": (BASE + "decoder:\n  dim: 64\n", "r.yaml:5: decoder.dim:", "it belongs at the top level"),
    "true for named blocks": (BASE + "adapters: true\n", "r.yaml:4: adapters:", "dictionary, not true"),
    "a number for a list of blocks": (BASE + "extra_predictions: 1\n", "r.yaml:4: extra_predictions:", "a list, not 1"),
    "a word for a number": (BASE + "decoder:\n  depth: six\n", "r.yaml:5: decoder.depth:", 'an integer, not "six"'),
    "yes for a number": (BASE + "decoder:\n  depth: yes\n", "r.yaml:5: decoder.depth:", 'an integer, not "yes"'),
    "no for false": (layer("feedforward: {bias: no}"), "feedforward.bias:", 'true or false or a list, not "no"'),
    "a fraction for a count": (BASE + "decoder:\n  depth: 2.5\n", "decoder.depth:", "an integer, not 2.5"),
    "a number in quotes": (BASE + 'decoder:\n  depth: "2"\n', "decoder.depth:", 'an integer, not "2"'),
    "a negative depth": (BASE + "decoder:\n  depth: -1\n", "decoder.depth:", "greater than or equal to 0, not -1"),
    "no heads at all": (layer("mixer: {heads: 0}"), "r.yaml:6: decoder.layer.mixer.heads:", "greater than 0, not 0"),
    "too much dropout": (BASE + "embedding:\n  dropout: 1.5\n", "embedding.dropout:", "less than 1, not 1.5"),
    "null for a size": ("type: decoder_only\ndim: null\n", "r.yaml:2: dim:", "an integer, not null"),
    "sizes that do not divide": (layer("mixer: {heads: 7}"), "r.yaml:6: decoder.layer.mixer:", "dim=32", "heads=7"),
    "heads that do not divide": (layer("mixer: {heads: 4, kv_heads: 3}"), "heads=4", "kv_heads=3"),
    "an odd rotation": (
        layer("mixer: {heads: 4, positions: {type: rotary, fraction: 0.4}}"),
        "r.yaml:6: decoder.layer.mixer.positions:",
        "fraction=0.4 of head_dim=8 is 3",
    ),
    "a number for a block": (
        BASE + "decoder:\n  norm: 5\n",
        "decoder.norm:",
        "a name or a mapping with its 'type', not 5",
    ),
    "a list for a block": (BASE + "decoder:\n  layer: [a]\n", "decoder.layer:", "a name or a mapping", '["a"]'),
    "a block of another slot": (
        BASE + "embedding:\n  positions: rotary\n",
        "r.yaml:5: embedding.positions:",
        "one of attention_positions",
        "'decoder.layer.mixer.positions'",
    ),
    "an unknown activation": (layer("feedforward: {activation: sylu}"), "no activation is called", "silu"),
    "a wrong item of a list": (
        layer("mixer: {bias: [q, x]}"),
        "decoder.layer.mixer.bias:",
        "'q', 'k', 'v' or 'out', not \"x\"",
    ),
    "a word out of the choice": (BASE + "embedding:\n  scale: sqrt\n", "embedding.scale:", "'sqrt_dim' or a number"),
    "no type": ("dim: 32\n", "r.yaml:1:", "model needs a 'type'; known: decoder_only"),
    "an unknown model": ("type: decoderonly\n", "r.yaml:1:", "did you mean 'decoder_only'?"),
    "another model's key": (BASE + "encoder:\n  depth: 2\n", "r.yaml:4: encoder:", "did you mean 'decoder'?"),
    "a key given twice": (BASE + "dim: 64\n", "r.yaml:4:", "'dim' is given twice; first at line 2"),
    "a tab": (BASE + "decoder:\n\tdepth: 3\n", "r.yaml:5:", "indent with spaces, not tabs"),
    "an open bracket": (BASE + "decoder: {depth: 3\n", "r.yaml:5:", "is not YAML"),
    "a list of recipes": ("- a\n", "r.yaml:1:", "must be a mapping"),
    "an empty file": ("", "r.yaml:1:", "must be a mapping"),
    "a tag that runs code": (BASE + "x: !!python/object/apply:os.system ['ls']\n", "r.yaml:4:", "is not allowed"),
    "a merge key": (BASE + "decoder:\n  <<: {depth: 2}\n", "r.yaml:5:", "like: name"),
    "a pattern that does not fill": (
        NAMED.replace("LIKE", "a").replace("PATTERN", "[a, b, b]"),
        "r.yaml:4: decoder:",
        "a pattern of 3 layers does not fill depth=4",
        "rest: cut",
    ),
    "a pattern of unknown layers": (
        NAMED.replace("LIKE", "a").replace("PATTERN", "[a, c]"),
        "pattern names 'c'",
        "a, b",
    ),
    "a layer never used": (NAMED.replace("LIKE", "a").replace("PATTERN", "[a]"), "layers has 'b'", "never uses it"),
    "layers without a pattern": (
        BASE + "decoder:\n  layers: {a: {}}\n",
        "r.yaml:4: decoder:",
        "must be given together",
    ),
    "like an unknown layer": (
        NAMED.replace("LIKE", "x").replace("PATTERN", "[a, b]"),
        "decoder.layers.b.like:",
        "known: a",
    ),
    "like itself": (
        NAMED.replace("{}", "{like: b}").replace("LIKE", "a"),
        "r.yaml:8: decoder.layers.b.like:",
        "is a circular reference",
    ),
    "a base that is missing": ("extends: nothere.yaml\n", "r.yaml:1: extends:", "there is no such file"),
    "a misspelt base": ("extends: gpt3\n", "r.yaml:1: extends:", "did you mean 'gpt2'?"),
    "itself as base": ("extends: r.yaml\n", "r.yaml", "extends", "is a circular reference"),
}


def complaint(path: Path, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(RecipeError) as caught:
        bf.check(load_recipe(path, overrides))
    return str(caught.value)


@pytest.mark.parametrize(("text", "fragments"), [(t, f) for t, *f in MISTAKES.values()], ids=list(MISTAKES))
def test_names_the_place_and_the_remedy(text: str, fragments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    lines = complaint(path).splitlines()
    assert len(lines) == 1
    assert all(fragment in lines[0] for fragment in fragments), lines[0]


def test_names_every_problem_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(BASE + "decoder:\n  depht: 3\n  layer:\n    mixer: {droput: 0.1}\n    feedforward: mpl\n")
    lines = complaint(path).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "decoder.depht",
        "decoder.layer.mixer.droput",
        "decoder.layer.feedforward",
    ]


def test_names_every_size_that_does_not_fit_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(layer("mixer: {heads: 4, kv_heads: 3}") + "embedding: {width: 16}\n")
    second, first = sorted(complaint(path).splitlines())
    assert "decoder.layer.mixer: heads=4" in first
    assert "head: the token table has width=16" in second


def test_names_the_line_of_the_base_for_a_mistake_in_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE + "decoder:\n  depht: 3\n")
    (tmp_path / "r.yaml").write_text("# a comment\nextends: base.yaml\ndim: 64\n")
    assert complaint(tmp_path / "r.yaml").startswith(f"{tmp_path}/base.yaml:5: decoder.depht:")


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("decoder.depht=3", ["override decoder.depht=3: decoder.depht:", "'depth'"]),
        ("decoder.depth", ["override decoder.depth: must have the form key.key=value"]),
        ("decoder.depth=x", ["override decoder.depth=x: decoder.depth:", "an integer"]),
        ("decoder..depth=3", ["must have the form"]),
        ("decoder.depth=[1", ["is not YAML"]),
        ("decoder.layer.mixer.heads=5", ["override decoder.layer.mixer.heads=5: decoder.layer.mixer:", "heads=5"]),
    ],
)
def test_a_wrong_override_is_named_as_it_was_said(override: str, fragments: list[str]) -> None:
    message = complaint(Path("tiny_decoder"), (override,))
    assert all(fragment in message for fragment in fragments), message


def test_a_recipe_that_explodes_through_aliases_is_refused(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "r.yaml").write_text("a0: &a0 [x]\n" + "\n".join(levels))
    assert "too large or too deeply nested" in complaint(tmp_path / "r.yaml")
