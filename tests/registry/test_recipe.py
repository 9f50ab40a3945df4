"""The recipe language: how a recipe is put together, and what makes two of them the same."""

import pickle
from pathlib import Path
from textwrap import dedent

import pytest

import blockformer as bf
from registry import RecipeError, load_recipe, registration
from registry.strict_yaml import parse_text
from tests.recipes.releases import DISTINCT

TINY = {"type": "decoder_only", "dim": 32, "vocab_size": 50}


def at(recipe: dict, path: str):
    for key in path.split("."):
        recipe = recipe[key]
    return recipe


@pytest.mark.parametrize("name", DISTINCT)
def test_the_canonical_form_of_every_recipe_reads_back_as_itself(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "copy.yaml").write_text(recipe.to_yaml())
    copy = load_recipe(tmp_path / "copy.yaml")
    assert copy.dump() == recipe.dump()
    assert copy.hash == recipe.hash == load_recipe(recipe.dump()).hash


def test_the_same_model_written_in_two_ways_has_one_hash() -> None:
    long = {
        **TINY,
        "decoder": {"type": "layers", "norm": {"type": "layer"}, "layer": {"type": "sequential", "mixer": "attention"}},
        "head": {"type": "tied", "bias": False},
    }
    assert load_recipe(long).hash == load_recipe(TINY).hash
    assert load_recipe({**TINY, "dim": 64}).hash != load_recipe(TINY).hash


def test_how_a_model_is_computed_does_not_change_which_it_is() -> None:
    eager = load_recipe(TINY, {"decoder.layer.mixer.backend": "eager"})
    assert eager.hash == load_recipe(TINY).hash
    assert at(eager.dump(), "decoder.layer.mixer.backend") == "eager"


def test_a_mapping_without_a_type_means_the_default_block() -> None:
    recipe = load_recipe(TINY, ["decoder.layer.mixer.kv_heads=2"]).dump()
    assert at(recipe, "decoder.layer.mixer.type") == "attention"
    assert at(recipe, "decoder.layer.mixer.kv_heads") == 2


def test_a_changed_type_starts_afresh_and_the_same_type_goes_on(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        dedent("""
        type: decoder_only
        decoder:
          layer:
            feedforward: {type: mlp, hidden: 96, bias: false}
            residual: {norm: {type: rms, eps: 1e-3}}
        """)
    )
    (tmp_path / "changed.yaml").write_text("extends: base.yaml\ndecoder: {layer: {feedforward: {type: glu}}}\n")
    (tmp_path / "same.yaml").write_text(
        "extends: base.yaml\ndecoder: {layer: {feedforward: {type: mlp, hidden: 48}}}\n"
    )
    changed, same = load_recipe(tmp_path / "changed.yaml").dump(), load_recipe(tmp_path / "same.yaml").dump()
    assert at(changed, "decoder.layer.feedforward.hidden") is None
    assert at(same, "decoder.layer.feedforward.hidden") == 48
    assert at(same, "decoder.layer.feedforward.bias") is False
    assert at(same, "decoder.layer.residual.norm.eps") == 1e-3
    glu = load_recipe(tmp_path / "base.yaml", ["decoder.layer.feedforward.type=glu"]).dump()
    assert at(glu, "decoder.layer.feedforward.hidden") is None


def test_extends_goes_through_several_files_and_reaches_installed_recipes(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("extends: gpt2\ndecoder: {depth: 3}\n")
    (tmp_path / "two.yaml").write_text("extends: one.yaml\ndim: 96\n")
    recipe = load_recipe(tmp_path / "two.yaml").dump()
    assert (recipe["dim"], at(recipe, "decoder.depth"), at(recipe, "decoder.layer.mixer.heads")) == (96, 3, 12)


def test_like_starts_from_a_sibling_and_follows_what_is_laid_over_it() -> None:
    recipe = load_recipe("tiny_local_global", ["decoder.layers.local.mixer.heads=8"]).dump()
    local, other = at(recipe, "decoder.layers.local.mixer"), at(recipe, "decoder.layers.global.mixer")
    assert (local["heads"], other["heads"]) == (8, 8)
    assert (local["window"], other["window"]) == (8, None)
    assert other["positions"]["theta"] == 1e6
    assert local["positions"]["theta"] == 1e4


def test_a_pattern_lays_the_layers_out_and_can_be_cut() -> None:
    model = bf.check(load_recipe("tiny_local_global", ["decoder.depth=5", "decoder.rest=cut"]))
    assert [layer.mixer.window for layer in model.decoder.layers] == [8, 8, None, 8, 8]


def test_overrides_reach_into_lists() -> None:
    recipe = load_recipe("tiny_local_global", ["decoder.pattern.1=global"]).dump()
    assert at(recipe, "decoder.pattern") == ["local", "global", "global"]


def test_overrides_are_the_same_as_text_and_as_values() -> None:
    text = load_recipe(
        "gpt2", ["decoder.depth=2", "decoder.layer.mixer.qk_norm={type: rms, eps: 1e-5}", "decoder.norm=null"]
    )
    values = {"decoder.depth": 2, "decoder.layer.mixer.qk_norm": {"type": "rms", "eps": 1e-5}, "decoder.norm": None}
    assert load_recipe("gpt2", values).hash == text.hash


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e+3", 1000.0),
        (".5", 0.5),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("010", 10),
        ("0x10", 16),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("~", None),
        ("", None),
        ("null", None),
        ("'1'", "1"),
        (".inf", float("inf")),
    ],
)
def test_scalars_are_read_as_yaml_1_2_has_them(text: str, value: object) -> None:
    parsed = parse_text(text, "text")
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_spec_is_pickled_by_its_recipe() -> None:
    spec = load_recipe("tiny_decoder").spec
    assert pickle.loads(pickle.dumps(spec)).hash == spec.hash  # noqa: S301  (our own bytes)


def test_reading_a_recipe_runs_nothing_that_it_names(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    (tmp_path / "r.yaml").write_text("type: evil.Model\nclass_path: evil.Model\nplugin: evil\n")
    with pytest.raises(ValueError, match="no model is called"):
        load_recipe(tmp_path / "r.yaml")
    assert not marker.exists()


def test_recipes_without_blocks_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_ENTRIES", {})
    with pytest.raises(RecipeError, match="no blocks are registered; import blocks or"):
        load_recipe("gpt2")
