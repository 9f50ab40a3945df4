"""Keys of nested configs are checked, have defaults, are found on export, and are written where they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from blockformer.huggingface import HuggingFaceError, config_of, load_family, read_folder
from tests.huggingface.conftest import Folder

FAMILY = """
extends: llama
match: {model_type: mine, architectures: Mine}
defaults:
  attn_config.kv_heads: =num_attention_heads
  attn_config.rope.theta: 500.0
fixed: {attn_config.clip: null, attn_config.kinds.*: [full, local], attn_config.alibi: false}
ignore: [attn_config.note]
let:
  rope: '={"rope_theta": attn_config["rope"]["theta"], "partial_rotary_factor": 1.0}'
  mixer: {kv_heads: '=attn_config["kv_heads"]'}
"""
DROPPED = ("num_key_value_heads", "rope_theta", "rope_scaling", "partial_rotary_factor")


@pytest.fixture
def family(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FAMILY)
    return path


def nested(llama: Folder, **attention: Any) -> Path:
    return llama.configure(DROPPED, model_type="mine", architectures=["Mine"], attn_config=attention)


def mixer(folder: Path, family: Path) -> dict[str, Any]:
    return read_folder(folder, family).recipe.dump()["decoder"]["layer"]["mixer"]


def problems(folder: Path, family: Path) -> str:
    with pytest.raises(HuggingFaceError) as caught:
        read_folder(folder, family)
    return str(caught.value)


def test_a_key_of_a_nested_config_has_its_value_or_its_default(llama: Folder, family: Path) -> None:
    found = mixer(nested(llama, kv_heads=2, rope={"theta": 90.0}), family)
    assert (found["kv_heads"], found["positions"]["theta"]) == (2, 90.0)
    found = mixer(nested(llama, kv_heads=2), family)
    assert (found["kv_heads"], found["positions"]["theta"]) == (2, 500.0)


def test_a_missing_nested_config_has_its_defaults(llama: Folder, family: Path, tmp_path: Path) -> None:
    folder = nested(llama, kv_heads=2)
    family.write_text(FAMILY.replace("=num_attention_heads", "2"))
    llama.configure(("attn_config",))
    assert mixer(folder, family)["kv_heads"] == 2


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ({"clip": 8}, "attn_config.clip: is 8; family 'mine' supports only null"),
        ({"kinds": ["full", "other"]}, "attn_config.kinds.1: is other; family 'mine' supports only full or local"),
        ({"bend": 1}, "attn_config.bend: family 'mine' does not read this key"),
        ({"rope": {"bend": 1}}, "attn_config.rope.bend: family 'mine' does not read this key"),
        ({"factor": 1}, "attn_config.factor: family 'mine' reads this key for other configs, but not for this one"),
        ({"top_k": 3}, "attn_config.top_k: family 'mine' does not read this key"),
        ({"model_type": "", "is_decoder": True}, "attn_config.is_decoder: is True; family 'mine' supports only false"),
    ],
)
def test_a_key_that_is_not_supported_is_an_error(
    attention: dict[str, Any], message: str, llama: Folder, family: Path
) -> None:
    assert message in problems(nested(llama, kv_heads=2, **attention), family)


def test_keys_that_do_not_affect_the_logits_are_ignored_in_nested_configs_of_transformers_too(
    llama: Folder, family: Path
) -> None:
    everywhere = {"top_k": 50, "is_decoder": False, "pad_token_id": None, "torch_dtype": "float32"}
    assert mixer(nested(llama, kv_heads=2, model_type="", note="x", clip=None, **everywhere), family)["kv_heads"] == 2


def test_a_nested_config_is_exported_as_one(llama: Folder, family: Path) -> None:
    imported = read_folder(nested(llama, kv_heads=2, rope={"theta": 90.0}), family)
    config = config_of(imported.recipe, imported.family)
    assert config["attn_config"] == {"alibi": False, "kv_heads": 2, "rope": {"theta": 90.0}}
    assert not [key for key in config if "." in key]


def test_a_child_fixes_a_key_of_which_it_inherits_a_default(llama: Folder, family: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    match = "match: {model_type: child, architectures: Child}"
    child.write_text(f"extends: mine\n{match}\nfixed: {{attn_config.kv_heads: 2, head_dim: =hidden_size // 4}}")
    nested(llama)
    folder = llama.configure(model_type="child", architectures=["Child"])
    imported = read_folder(folder, child)
    assert imported.recipe.dump()["decoder"]["layer"]["mixer"]["kv_heads"] == 2
    config = config_of(imported.recipe, imported.family)
    assert (config["attn_config"]["kv_heads"], config["head_dim"]) == (2, 4)
    llama.configure(attn_config={"kv_heads": 4}, head_dim=5)
    text = problems(folder, child)
    assert "attn_config.kv_heads: is 4; family 'child' supports only 2" in text
    assert "head_dim: is 5; family 'child' supports only 4" in text


def test_a_default_that_nothing_reads_does_not_count_as_reading(llama: Folder, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: llama\nmatch: {model_type: llama, architectures: LlamaForCausalLM}\ndefaults: {clip_qkv: null}"
    )
    text = problems(llama.configure(clip_qkv=8), path)
    assert "clip_qkv: family 'mine' has a default for this key, but nothing in it reads the key" in text
    assert json.loads((llama.path / "config.json").read_text())["clip_qkv"] == 8
    assert load_family(path).has_default("clip_qkv")
