from collections.abc import Callable

import pytest
import torch

import blockformer as bf
from blocks.models.base import Model

BUILDERS = {
    "learned": {
        "type": "decoder_only",
        "embedding": {"positions": "learned"},
        "decoder": {"depth": 2, "layer": {"mixer": {"type": "attention", "heads": 2}, "feedforward": {"hidden": 32}}},
    },
    "rotary": {
        "type": "decoder_only",
        "embedding": {"positions": "none"},
        "decoder": {
            "depth": 2,
            "layer": {
                "mixer": {"type": "attention", "heads": 4, "kv_heads": 2, "window": 5, "positions": "rotary"},
                "feedforward": {"type": "glu", "hidden": 32},
            },
        },
    },
    "translator": {
        "type": "encoder_decoder",
        "encoder": {"depth": 1, "layer": {"mixer": {"type": "attention", "heads": 2}, "feedforward": {"hidden": 32}}},
        "decoder": {"depth": 2, "layer": {"mixer": {"type": "attention", "heads": 2}, "feedforward": {"hidden": 32}}},
    },
    "reader": {
        "type": "encoder_only",
        "embedding": {"positions": "none"},
        "encoder": {
            "depth": 1,
            "layer": {
                "mixer": {"type": "attention", "heads": 2, "positions": "rotary"},
                "feedforward": {"hidden": 32},
            },
        },
    },
}


@pytest.fixture
def make() -> Callable[..., Model]:
    """Builds a small model in double precision, with initial values wide enough that its answers differ clearly."""

    def built(name: str, *, vocab_size: int = 11, max_length: int = 24, seed: int = 0) -> Model:
        recipe = BUILDERS[name] | {"dim": 16, "vocab_size": vocab_size, "max_length": max_length, "head": "own"}
        recipe["init"] = {"type": "normal", "std": 0.4}
        return bf.build(recipe, seed=seed, dtype=torch.float64).eval()

    return built
