from pathlib import Path

import pytest

from blockformer import build
from blockformer.huggingface import (
    ExportError,
    HuggingFaceError,
    config_of,
    export_folder,
    family_for,
    load_family,
    read_folder,
)
from blockformer.huggingface.export_config import resolve_nulls
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


def test_layer_names_do_not_matter(tmp_path: Path) -> None:
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


def test_keys_that_a_family_does_not_support_are_named(tmp_path: Path) -> None:
    recipe = load_recipe(LLAMA, {"decoder.layer.mixer.softcap": 3.0, "head": {"type": "own", "bias": True}})
    with pytest.raises(HuggingFaceError) as caught:
        export_folder(recipe, build(recipe).state_dict(), tmp_path / "out", load_family("llama"))
    text = str(caught.value)
    assert "decoder.layer.mixer.softcap: is 3.0; llama does not support this: set it to null" in text
    assert "head.bias: is true; llama requires false" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_recipe_without_a_family_is_rejected_with_the_keys_that_differ() -> None:
    with pytest.raises(HuggingFaceError, match="softcap"):
        family_for(load_recipe(LLAMA, {"decoder.layer.mixer.softcap": 3.0}))


def test_a_null_that_a_block_replaces_by_a_number_is_exported_as_that_number(tmp_path: Path) -> None:
    recipe = load_recipe(LLAMA, {"decoder.layer.mixer.kv_heads": None})
    out = export_folder(recipe, build(recipe).state_dict(), tmp_path / "out")
    again = read_folder(out).recipe
    assert again.dump()["decoder"]["layer"]["mixer"]["kv_heads"] == 4
    assert resolve_nulls(again).hash == resolve_nulls(recipe).hash != recipe.hash


def test_settings_that_matter_only_in_training_do_not_affect_the_export() -> None:
    changes = {"embedding.dropout": 0.1, "decoder.layer.residual.dropout": 0.2, "init": {"type": "normal", "std": 0.1}}
    assert family_for(load_recipe(LLAMA, changes))[1] == family_for(load_recipe(LLAMA))[1]


@pytest.mark.slow
def test_each_unsupported_layer_is_reported_once() -> None:
    layer = LLAMA["decoder"]["layer"]
    layers = {"plain": layer, "capped": {**layer, "mixer": {**layer["mixer"], "softcap": 5.0}}}
    decoder = {"depth": 4, "layers": layers, "pattern": ["plain", "capped"], "norm": "rms"}
    with pytest.raises(ExportError) as caught:
        family_for(load_recipe({**LLAMA, "decoder": decoder}))
    (problem,) = caught.value.problems
    assert problem.path == "decoder.layers.capped.mixer.softcap"


def test_another_kind_of_model_is_one_mismatch() -> None:
    with pytest.raises(ExportError, match="is decoder_only; bert requires encoder_only"):
        config_of(load_recipe(LLAMA), load_family("bert"))


@pytest.mark.slow
def test_a_family_that_requires_another_token_id_than_the_tokenizer_has_is_rejected(tmp_path: Path) -> None:
    recipe = load_recipe(LLAMA)
    out = export_folder(recipe, build(recipe).state_dict(), tmp_path / "out", tokens={"eos_token_id": 2})
    assert read_folder(out).tokens == {"eos_token_id": 2}
    learned = {"embedding": {"positions": {"type": "learned", "offset": 2}, "norm": "layer"}}
    encoder = {"depth": 1, "layer": LAYER, "norm": None}
    head = {"type": "tied", "bias": True, "transform": {"type": "mlm", "activation": "gelu"}}
    sizes = {"dim": 16, "vocab_size": 23, "max_length": 32}
    roberta = load_recipe({"type": "encoder_only", **sizes, **learned, "encoder": encoder, "head": head})
    with pytest.raises(HuggingFaceError, match="roberta requires pad_token_id 1, but the tokenizer has 0"):
        export_folder(roberta, build(roberta).state_dict(), tmp_path / "no", tokens={"pad_token_id": 0})
