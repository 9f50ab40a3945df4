"""Tiny Hugging Face folders, written without transformers."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blockformer import build
from blockformer.huggingface import export_folder, load_family
from registry import load_recipe

LLAMA: dict[str, Any] = {
    "type": "decoder_only",
    "dim": 16,
    "vocab_size": 23,
    "max_length": 32,
    "embedding": {"positions": "none"},
    "decoder": {
        "depth": 2,
        "layer": {
            "mixer": {"type": "attention", "heads": 4, "kv_heads": 2, "positions": "rotary"},
            "feedforward": {"type": "glu", "hidden": 24},
            "residual": {"type": "pre", "norm": "rms"},
        },
        "norm": "rms",
    },
    "head": "own",
}


class Folder:
    """A Hugging Face folder whose config and tensors a test can change."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def configure(self, without: tuple[str, ...] = (), **keys: Any) -> Path:
        config = json.loads((self.path / "config.json").read_text())
        kept = {key: value for key, value in config.items() if key not in without}
        (self.path / "config.json").write_text(json.dumps(kept | keys))
        return self.path

    def change(self, edit: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]) -> Path:
        file = self.path / "model.safetensors"
        save_file({name: tensor.clone() for name, tensor in edit(load_file(file)).items()}, file)
        return self.path


@pytest.fixture
def llama(tmp_path: Path) -> Folder:
    recipe = load_recipe(LLAMA)
    model = build(recipe, seed=1)
    return Folder(export_folder(recipe, model.state_dict(), tmp_path / "llama", load_family("llama")))
