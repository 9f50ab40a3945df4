import pytest
import torch

import blockformer as bf
from blockformer.generation import beam_search, generate
from blocks.models.base import Model
from registry import entries

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3], [7, 7]]
BEAM = {"max_new_tokens": 6, "beams": 3, "eos": 2}
CAUSAL = [name for name, entry in entries("mixer").items() if "causal" in entry.block.capabilities.places]
POSITIONS = list(entries("attention_positions"))


def model(mixer: dict[str, object], vocab_size: int = 11) -> Model:
    recipe = {
        "type": "decoder_only",
        "dim": 16,
        "vocab_size": vocab_size,
        "max_length": 32,
        "head": "own",
        "embedding": {"positions": "none"},
        "decoder": {"depth": 2, "layer": {"mixer": mixer, "feedforward": {"hidden": 32}}},
        "init": {"type": "normal", "std": 0.4},
    }
    return bf.build(recipe, dtype=torch.float64).eval()


def assert_rows_and_caches_change_nothing(writer: Model) -> None:
    alone = [generate(writer, [prompt], max_new_tokens=10, use_cache=False)[0] for prompt in PROMPTS]
    assert generate(writer, PROMPTS, max_new_tokens=10) == alone
    found = [beam_search(writer, [prompt], use_cache=False, **BEAM)[0] for prompt in PROMPTS]
    together = beam_search(writer, PROMPTS, **BEAM)
    assert [[one.tokens for one in row] for row in together] == [[one.tokens for one in row] for row in found]


@pytest.mark.parametrize("mixer", CAUSAL)
def test_texts_side_by_side_are_those_written_alone_with_every_mixer(mixer) -> None:
    assert_rows_and_caches_change_nothing(model({"type": mixer}))


@pytest.mark.parametrize("positions", POSITIONS)
def test_texts_side_by_side_are_those_written_alone_with_all_positions(positions) -> None:
    assert_rows_and_caches_change_nothing(model({"type": "attention", "heads": 2, "positions": positions}))
