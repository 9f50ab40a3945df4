"""`blockformer show`."""

import json
import re

import pytest

import blockformer as bf
import registry
from blockformer.cli.main import main
from blockformer.cli.tree import rows
from tests.recipes.releases import DISTINCT


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["show", *arguments]) == 0
    return capsys.readouterr().out


def line_of(text: str, pattern: str) -> str:
    (line,) = [line for line in text.splitlines() if re.search(pattern, line)]
    return line


def test_blocks_stand_with_their_settings_and_tensors_with_their_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "gpt2")
    assert line_of(text, "mixer: attention").split()[2:] == [
        "heads",
        "12,",
        "bias",
        "true,",
        "dropout",
        "0.1",
        "2,362,368",
    ]
    assert line_of(text, r"up\.weight").split() == ["up.weight", "3072", "x", "768", "2,359,296"]
    assert "backend" not in text


def test_layers_that_are_alike_share_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert "layers 0-11: sequential" in line_of(shown(capsys, "gpt2"), "layers 0-11.*12 x 7,087,872")
    text = shown(capsys, "tiny_local_global")
    assert "4 x" in line_of(text, r"layers 0-1, 3-4 \(local\): sequential")
    assert "2 x" in line_of(text, r"layers 2, 5 \(global\): sequential")


def test_layers_that_differ_have_lines_of_their_own() -> None:
    recipe = registry.load_recipe("tiny_local_global", {"decoder.layers.global.mixer.kv_heads": 1})
    names = [row.name for row in rows(bf.check(recipe))]
    assert sum(name.startswith("layers ") for name in names) == 2
    assert names.count("mixer: attention") == 2


@pytest.mark.parametrize("name", DISTINCT)
def test_the_lines_of_tensors_add_up_to_the_model(name: str) -> None:
    model = bf.check(registry.load_recipe(name))
    total, times = 0, [(0, 1)]
    for row in rows(model):
        while times[-1][0] >= row.depth > 0:
            times.pop()
        factor, _, size = row.parameters.rpartition(" x ")
        times.append((row.depth, times[-1][1] * int(factor or 1)))
        if re.fullmatch(r"\d+( x \d+)*", row.detail):
            total += times[-1][1] * int(size.replace(",", ""))
    assert total == model.size


def test_the_cost_is_that_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    text, model = shown(capsys, "gpt2"), bf.check(registry.load_recipe("gpt2"))
    assert f"{model.flops_per_token(1024):,.0f} forward" in line_of(text, "FLOPs per token")
    assert "18,432 numbers" in line_of(text, "cache per token")
    assert "cache per token" not in shown(capsys, "bert_base")


def test_what_is_piped_is_plain_and_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    text = shown(capsys, "gpt2")
    assert "\x1b" not in text
    assert line_of(text, "mixer: attention").endswith("2,362,368")
    assert text == "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_json_holds_all_that_the_tree_shows(capsys: pytest.CaptureFixture[str]) -> None:
    facts, recipe = (
        json.loads(shown(capsys, "gpt2", "--set", "decoder.depth=2", "--format", "json")),
        registry.load_recipe("gpt2", {"decoder.depth": 2}),
    )
    model = bf.check(recipe)
    assert (facts["name"], facts["kind"], facts["hash"]) == ("gpt2", "decoder_only", recipe.hash)
    assert facts["parameters"] == sum(facts["parameters_by_slot"].values()) == model.size
    assert facts["tensors"]["decoder.layers.1.mixer.q.weight"] == [768, 768]
    assert facts["flops_per_token"] == model.flops_per_token(1024)
    assert registry.load_recipe(facts["recipe"]).hash == recipe.hash


def test_yaml_is_a_recipe_of_the_same_model(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    (tmp_path / "canonical.yaml").write_text(shown(capsys, "tiny_local_global", "--format", "yaml"))
    assert registry.load_recipe(tmp_path / "canonical.yaml").hash == registry.load_recipe("tiny_local_global").hash
