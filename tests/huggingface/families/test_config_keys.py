"""Config keys that transformers ignores are ignored, and those that it applies are applied."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from blockformer.huggingface import HuggingFaceError, read_folder, verify
from tests.huggingface.families.cases import CASES
from tests.huggingface.families.originals import saved


def changed(name: str, originals: Path, folder: Path, **keys: Any) -> Path:
    """The folder of a case with other keys in its config."""
    source = saved(next(case for case in CASES if case.name == name), originals)
    shutil.copytree(source, folder / "changed")
    config = json.loads((source / "config.json").read_text())
    rope = config["rope_parameters"] | keys.pop("rope", {})
    (folder / "changed" / "config.json").write_text(json.dumps(config | {"rope_parameters": rope} | keys))
    return folder / "changed"


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "olmo2", "falcon", "phi", "stablelm", "nemotron"])
@pytest.mark.parametrize("place", ["top", "rope"])
def test_a_share_of_rotated_numbers_has_the_effect_that_it_has_in_transformers(
    name: str, place: str, originals: Path, tmp_path: Path
) -> None:
    share: dict[str, Any] = {"partial_rotary_factor": 0.5}
    folder = changed(name, originals, tmp_path, **(share if place == "top" else {"rope": share}))
    assert verify(read_folder(folder)).agrees


def test_a_share_with_a_scaled_rope_is_refused_where_transformers_cannot_run_it(
    originals: Path, tmp_path: Path
) -> None:
    folder = changed(
        "llama", originals, tmp_path, rope={"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}
    )
    with pytest.raises(HuggingFaceError, match="scaled RoPE that has a partial_rotary_factor"):
        read_folder(folder)


def test_what_the_classes_of_transformers_refuse_is_one_line(originals: Path, tmp_path: Path) -> None:
    folder = changed("llama", originals, tmp_path)
    imported = read_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "48"}))
    with pytest.raises(HuggingFaceError, match="transformers cannot load it: StrictDataclass") as caught:
        verify(imported)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "relu"])
def test_gemma_2_has_the_activation_that_its_config_names(activation: str, originals: Path, tmp_path: Path) -> None:
    assert verify(read_folder(changed("gemma2", originals, tmp_path, hidden_activation=activation))).agrees


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_a_scale_of_experts_that_transformers_ignores_is_not_applied(
    name: str, originals: Path, tmp_path: Path
) -> None:
    with pytest.raises(HuggingFaceError, match=r"routed_scaling_factor: family '.*' does not read this key"):
        read_folder(changed(name, originals, tmp_path, routed_scaling_factor=2.0))


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo"])
def test_an_untied_head_without_weights_is_not_tied(name: str, originals: Path, tmp_path: Path) -> None:
    source = saved(next(case for case in CASES if case.name == name), originals)
    shutil.copytree(source, tmp_path / "changed")
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "changed" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(HuggingFaceError, match="tie_word_embeddings: is False"):
        read_folder(tmp_path / "changed")
