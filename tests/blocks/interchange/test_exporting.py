from pathlib import Path

import pytest

from blocks import build
from blocks.interchange import InterchangeError, export_folder, family_for, load_family, read_folder
from registry import load
from tests.blocks.interchange.conftest import LLAMA, Folder


def test_the_family_of_a_recipe_is_found(llama: Folder) -> None:
    family, config = family_for(load(LLAMA))
    assert family.name == "llama"
    assert (config["hidden_size"], config["num_key_value_heads"], config["hidden_act"]) == (16, 2, "silu")


def test_names_of_layers_do_not_matter(tmp_path: Path) -> None:
    layer = LLAMA["decoder"]["layer"]
    windows = {"near": {**layer, "mixer": {**layer["mixer"], "window": 5, "bias": ["q", "k", "v"]}}}
    windows["far"] = {"like": "near", "mixer": {"window": None}}
    decoder = {"depth": 2, "layers": windows, "pattern": ["near", "far"], "norm": "rms"}
    recipe = load({**LLAMA, "decoder": decoder})
    out = export_folder(recipe, build(recipe).state_dict(), tmp_path / "out", load_family("qwen2"))
    assert [layer["window"] for layer in windows_of(out)] == [5, None]


def windows_of(folder: Path) -> list[dict[str, int | None]]:
    stack = read_folder(folder).recipe.dump()["decoder"]
    return [stack["layers"][name]["mixer"] for name in stack["pattern"]]


def test_what_a_family_cannot_say_is_named(tmp_path: Path) -> None:
    recipe = load(LLAMA, {"decoder.layer.mixer.softcap": 3.0, "head": {"type": "own", "bias": True}})
    with pytest.raises(InterchangeError) as caught:
        export_folder(recipe, build(recipe).state_dict(), tmp_path / "out", load_family("llama"))
    text = str(caught.value)
    assert "decoder.layer.mixer.softcap: is 3.0; llama has none: leave it null" in text
    assert "head.bias: is true; llama has false" in text
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_no_family_is_refused_with_what_stands_in_the_way() -> None:
    with pytest.raises(InterchangeError, match="softcap"):
        family_for(load(LLAMA, {"decoder.layer.mixer.softcap": 3.0}))
