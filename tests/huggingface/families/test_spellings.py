"""Configs and tensor names in the spelling of older versions of transformers give the same model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from blockformer.huggingface import read_folder
from tests.huggingface.families.cases import CASES
from tests.huggingface.families.originals import saved

Config = dict[str, Any]


def respelled(name: str, originals: Path, folder: Path, change: Callable[[Config], None]) -> tuple[str, str]:
    """The hash of the recipe for a case's config, and for the changed config."""
    source = saved(next(case for case in CASES if case.name == name), originals)
    shutil.copytree(source, folder / "older")
    config = json.loads((source / "config.json").read_text())
    change(config)
    (folder / "older" / "config.json").write_text(json.dumps(config))
    return read_folder(source).recipe.hash, read_folder(folder / "older").recipe.hash


def rope_at_top_level(config: Config) -> None:
    """Rotary settings at the top level and in ``rope_scaling``."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if (share := rope.pop("partial_rotary_factor", None)) is not None:
        config["partial_rotary_factor"] = share
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}


def gpt_neox(config: Config) -> None:
    rope = config.pop("rope_parameters")
    config |= {"rotary_emb_base": rope["rope_theta"], "rotary_pct": rope["partial_rotary_factor"]}


def gemma3(config: Config) -> None:
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope["full_attention"]["rope_theta"], "sliding_window_pattern": 2}
    config |= {"rope_local_base_freq": rope["sliding_attention"]["rope_theta"]}
    config["rope_scaling"] = {"rope_type": "linear", "factor": rope["full_attention"]["factor"]}
    for key in ("layer_types", "_sliding_window_pattern", "attn_logit_softcapping", "final_logit_softcapping"):
        del config[key]


def modernbert(config: Config) -> None:
    rope = config.pop("rope_parameters")
    config |= {"global_rope_theta": rope["full_attention"]["rope_theta"], "global_attn_every_n_layers": 3}
    config["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
    del config["layer_types"]


def phi3(config: Config) -> None:
    rope_at_top_level(config)
    config["rope_scaling"]["type"] = "su"
    del config["rope_scaling"]["original_max_position_embeddings"]


def without_layers(config: Config) -> None:
    del config["layer_types"]


def mamba2(config: Config) -> None:
    assert config["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    config["time_step_limit"] = [0.0, float("inf")]  # which json writes as Infinity


def t5(config: Config) -> None:
    for key in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act", "tie_word_embeddings", "num_decoder_layers"):
        config.pop(key, None)
    config |= {"n_positions": 512, "output_past": True, "num_decoder_layers": 3}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", rope_at_top_level),
        ("llama llama3", rope_at_top_level),
        ("llama yarn with a magnitude", rope_at_top_level),
        ("stablelm", rope_at_top_level),
        ("nemotron", rope_at_top_level),
        ("gpt_neox", gpt_neox),
        ("gemma3", gemma3),
        ("gemma2", without_layers),
        ("modernbert", modernbert),
        ("phi3 longrope", phi3),
        ("qwen2", without_layers),
        ("dots1", without_layers),
        ("exaone_moe", without_layers),
        ("mamba2", mamba2),
        ("t5", t5),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_config_in_its_older_spelling_is_the_same_model(
    name: str, change: Callable[[Config], None], originals: Path, tmp_path: Path
) -> None:
    now, before = respelled(name, originals, tmp_path, change)
    assert now == before


@pytest.mark.parametrize(
    ("name", "older"),
    [
        ("gpt2", lambda name: name.removeprefix("transformer.")),
        ("opt", lambda name: name.removeprefix("model.")),
        ("bloom", lambda name: name.removeprefix("transformer.")),
        ("bert", lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta")),
        ("gte", lambda name: name.replace("gte.", "new.")),
    ],
)
def test_tensors_under_their_older_names_are_the_same_model(
    name: str, older: Callable[[str], str], originals: Path, tmp_path: Path
) -> None:
    source = saved(next(case for case in CASES if case.name == name), originals)
    folder = Path(shutil.copytree(source, tmp_path / "older"))
    tensors = load_file(source / "model.safetensors")
    save_file({older(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    now, before = read_folder(source).parameters, read_folder(folder).parameters
    assert now.keys() == before.keys()
    assert all((now[name] == before[name]).all() for name in now)
