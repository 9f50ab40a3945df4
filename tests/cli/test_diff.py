"""`blockformer diff`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import blockformer as bf
import registry
from blockformer.assembly.checkpoint import FORMAT, METADATA
from blockformer.assembly.descriptions import layout
from blockformer.assembly.recipe_diff import compare
from blockformer.cli.main import main
from blockformer.inspection.cost import bytes_in, cache_bytes


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["diff", *arguments]) == 0
    return capsys.readouterr().out


def facts(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    return json.loads(said(capsys, *arguments, "--format", "json"))


@pytest.mark.slow
def test_one_changed_key_is_one_line_with_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "gpt2", "decoder.layer.mixer.kv_heads=4")
    assert text.startswith("one difference from A, gpt2, to B, gpt2 with decoder.layer.mixer.kv_heads=4\n")
    assert "decoder, all layers, mixer (attention)\n  kv_heads: null (12) -> 4  (multi-head -> grouped-query" in text


TINY = [name for name in registry.builtin_recipes() if name.startswith("tiny_")]


@pytest.mark.parametrize("name", TINY)
def test_a_model_written_in_two_ways_is_the_same(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "canonical.yaml").write_text(registry.load_recipe(name).to_yaml())
    text = said(capsys, name, str(tmp_path / "canonical.yaml"))
    assert "are the same model (hash" in text
    assert len(text.splitlines()) == 1


@pytest.mark.slow
def test_what_says_only_how_to_compute_is_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "gpt2", "decoder.layer.mixer.backend=eager")
    assert "are the same model, implemented differently: decoder.layer.mixer.backend" in text


def test_layers_that_are_alike_under_two_names_are_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    layer = {
        "mixer": {"heads": 4, "kv_heads": 2, "positions": "rotary"},
        "feedforward": {"type": "glu", "hidden": 64},
        "residual": {"type": "pre", "norm": "rms"},
    }
    two = json.dumps({"depth": 2, "layers": {"one": layer, "two": layer}, "pattern": ["one", "two"], "norm": "rms"})
    text = said(capsys, "tiny_decoder", f"decoder={two}")
    assert "have the same layers, but different hashes, because of " in text
    assert not facts(capsys, "tiny_decoder", f"decoder={two}")["changes"]


@pytest.mark.slow
def test_another_block_is_one_difference_and_no_flood(capsys: pytest.CaptureFixture[str]) -> None:
    (change,) = facts(capsys, "gpt2", "decoder.layer.mixer={type: gated_delta, heads: 12}")["changes"]
    assert (change["slot"], change["block"], change["key"]) == ("mixer", "attention -> gated_delta", "")
    assert change["places"] == ["decoder, all layers, mixer"]


def test_the_same_difference_in_many_places_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    (change,) = facts(capsys, "gpt2", "decoder.layer.residual.norm=rms", "decoder.norm=rms")["changes"]
    assert change["places"] == ["decoder, all layers, residual.norm", "decoder.norm"]


def test_layers_are_named_where_only_some_differ(capsys: pytest.CaptureFixture[str]) -> None:
    (change,) = facts(capsys, "tiny_local_global", "decoder.layers.local.mixer.window=4")["changes"]
    assert change["places"] == ["decoder, layers 0-1, 3-4, mixer"]
    assert (change["key"], change["old"], change["new"]) == ("window", "8", "4")


def test_stacks_are_compared_across_kinds_of_models(capsys: pytest.CaptureFixture[str]) -> None:
    changes = facts(capsys, "gpt2", "bert_base")["changes"]
    assert changes[0]["block"] == "decoder_only -> encoder_only"
    assert "encoder, all layers, residual" in [place for change in changes for place in change["places"]]


@pytest.mark.parametrize("a", TINY)
def test_nothing_is_said_of_no_difference_and_something_of_each(a: str) -> None:
    recipes = [registry.load_recipe(name) for name in TINY]
    one = registry.load_recipe(a)
    for other in recipes:
        changes = compare(bf.check(one), bf.check(other))
        assert bool(changes) == (one.hash != other.hash)


def test_costs_are_those_of_the_two_models(capsys: pytest.CaptureFixture[str]) -> None:
    told = facts(capsys, "tiny_decoder", "tiny_hybrid", "--length", "32")
    for side, name in (("a", "tiny_decoder"), ("b", "tiny_hybrid")):
        model = bf.build(name)
        assert told[side]["parameters"] == sum(told[side]["by_slot"].values()) == model.size
        assert told[side]["flops_per_token"] == model.flops_per_token(32)
        for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            cache = model.to(dtype).eval().new_cache()
            with torch.no_grad():
                model(torch.zeros(1, 32, dtype=torch.long), cache=cache)
            assert told[side]["cached"][precision] == bytes_in(cache)


def test_the_cache_of_attention_grows_by_what_it_says_of_a_token() -> None:
    model = bf.check(registry.load_recipe("tiny_decoder"))
    grown = cache_bytes(model, 9, torch.bfloat16) - cache_bytes(model, 8, torch.bfloat16)
    assert grown == 2 * model.cached_per_token  # type: ignore[attr-defined]


def test_folders_and_checkpoints_have_recipes_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = registry.load_recipe("tiny_encoder")
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    torch.save({METADATA: {"format": FORMAT, "recipe": recipe.dump()}}, tmp_path / "epoch=1.ckpt")
    assert "are the same model" in said(capsys, str(tmp_path), str(tmp_path / "epoch=1.ckpt"))
    assert "one difference" in said(capsys, str(tmp_path / "epoch=1.ckpt"), "encoder.depth=1", "--set", "dim=64")


def test_each_side_can_be_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "are the same" in said(capsys, "gpt2", "decoder.depth=3", "--set-a", "decoder.depth=3")
    assert "are the same" in said(capsys, "gpt2", "gpt2", "--set", "decoder.depth=3")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gpt3", "gpt2"], "there is no built-in recipe of this name; did you mean 'gpt2'?"),
        (["gpt2", "decoder.dpeth=3"], "did you mean 'depth'?"),
        (["gpt2", "gpt2", "bert_base"], "'bert_base': must have the form KEY=VALUE"),
        (["gpt2", "gpt2", "--length", "2000"], "--length 2000 is above the smaller max_length of the two models: 1024"),
        (["tests", "gpt2"], "tests: the folder has no recipe.yaml"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_markdown_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "gpt2", "bert_base", "--format", "markdown")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "| embedding (token) | segments | 0 | 2 |" in rows
    assert all(row.count("|") == 5 for row in rows)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("aab" * 2, "2 x (2 x a, b)"),
        ("d" + "s" * 5, "d, then 5 x s"),
        ("abab", "2 x (a, b)"),
        ("aabaa", "2 x a, b, then 2 x a"),
        ("ab", "a, b"),
        ("aaa", "3 x a"),
    ],
)
def test_a_layout_is_said_in_few_words(names: str, words: str) -> None:
    assert layout(list(names)) == words
