from pathlib import Path

import pytest

from blockformer import build
from blockformer.huggingface import (
    InexpressibleError,
    InterchangeError,
    config_of,
    export_folder,
    family_for,
    load_family,
    read_folder,
)
from blockformer.huggingface.defaults import resolved
from registry import load_recipe
from tests.huggingface.conftest import LLAMA, Folder

LAYER = {
    "mixer": {"type": "attention", "heads": 4, "bias": True},
    "feedforward": {"type": "mlp", "hidden": 24, "activation": "gelu"},
    "residual": {"type": "post", "norm": "layer"},
}


def test_the_family_of_a_recipe_is_found(llama: Folder) -> None:
    family, config = family_for(load_recipe(LLAMA))
    assert family.name == "llama"
    assert (config["hidden_size"], config["num_key_value_heads"], config["hidden_act"]) == (16, 2, "silu")


def test_names_of_layers_do_not_matter(tmp_path: Path) -> None:
    layer = LLAMA["decoder"]["layer"]
    windows = {"near": {**layer, "mixer": {**layer["mixer"], "window": 5, "bias": ["q", "k", "v"]}}}
    windows["far"] = {"like": "near", "mixer": {"window": None}}
    decoder = {"depth": 2, "layers": windows, "pattern": ["near", "far"], "norm": "rms"}
    recipe = load_recipe({**LLAMA, "decoder": decoder})
    out = export_folder(recipe, build(recipe).state_dict(), tmp_path / "out", load_family("qwen2"))
    assert [layer["window"] for layer in windows_of(out)] == [5, None]


def windows_of(folder: Path) -> list[dict[str, int | None]]:
    stack = read_folder(folder).recipe.dump()["decoder"]
    return [stack["layers"][name]["mixer"] for name in stack["pattern"]]


def test_what_a_family_cannot_say_is_named(tmp_path: Path) -> None:
    recipe = load_recipe(LLAMA, {"decoder.layer.mixer.softcap": 3.0, "head": {"type": "own", "bias": True}})
    with pytest.raises(InterchangeError) as caught:
        export_folder(recipe, build(recipe).state_dict(), tmp_path / "out", load_family("llama"))
    text = str(caught.value)
    assert "decoder.layer.mixer.softcap: is 3.0; llama has none: leave it null" in text
    assert "head.bias: is true; llama has false" in text
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_no_family_is_refused_with_what_stands_in_the_way() -> None:
    with pytest.raises(InterchangeError, match="softcap"):
        family_for(load_recipe(LLAMA, {"decoder.layer.mixer.softcap": 3.0}))


def test_a_null_that_a_block_replaces_by_a_number_does_not_stand_in_the_way(tmp_path: Path) -> None:
    recipe = load_recipe(LLAMA, {"decoder.layer.mixer.kv_heads": None})
    out = export_folder(recipe, build(recipe).state_dict(), tmp_path / "out")
    again = read_folder(out).recipe
    assert again.dump()["decoder"]["layer"]["mixer"]["kv_heads"] == 4
    assert resolved(again).hash == resolved(recipe).hash != recipe.hash


def test_what_matters_only_in_training_does_not_stand_in_the_way() -> None:
    changes = {"embedding.dropout": 0.1, "decoder.layer.residual.dropout": 0.2, "init": {"type": "normal", "std": 0.1}}
    assert family_for(load_recipe(LLAMA, changes))[1] == family_for(load_recipe(LLAMA))[1]


def test_each_layer_that_a_family_cannot_say_is_named_once() -> None:
    layer = LLAMA["decoder"]["layer"]
    layers = {"plain": layer, "capped": {**layer, "mixer": {**layer["mixer"], "softcap": 5.0}}}
    decoder = {"depth": 4, "layers": layers, "pattern": ["plain", "capped"], "norm": "rms"}
    with pytest.raises(InexpressibleError) as caught:
        family_for(load_recipe({**LLAMA, "decoder": decoder}))
    (problem,) = caught.value.problems
    assert problem.path == "decoder.layers.capped.mixer.softcap"


def test_another_kind_of_model_is_one_obstacle() -> None:
    with pytest.raises(InexpressibleError, match="is decoder_only; bert has encoder_only"):
        config_of(load_recipe(LLAMA), load_family("bert"))


def test_a_family_that_needs_another_token_than_the_tokenizer_has_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe(LLAMA)
    out = export_folder(recipe, build(recipe).state_dict(), tmp_path / "out", tokens={"eos_token_id": 2})
    assert read_folder(out).tokens == {"eos_token_id": 2}
    learned = {"embedding": {"positions": {"type": "learned", "offset": 2}, "norm": "layer"}}
    encoder = {"depth": 1, "layer": LAYER, "norm": None}
    head = {"type": "tied", "bias": True, "transform": {"type": "mlm", "activation": "gelu"}}
    sizes = {"dim": 16, "vocab_size": 23, "max_length": 32}
    roberta = load_recipe({"type": "encoder_only", **sizes, **learned, "encoder": encoder, "head": head})
    with pytest.raises(InterchangeError, match="roberta needs pad_token_id 1, but the tokenizer has 0"):
        export_folder(roberta, build(roberta).state_dict(), tmp_path / "no", tokens={"pad_token_id": 0})
