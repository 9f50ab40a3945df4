"""Layers laid out, shared, and given positions in common."""

from typing import Any

import pytest
import torch

import blockformer as bf
from blockformer.conformance import BlockCase
from blockformer.conformance.checks.caching import check_cache_size_is_as_declared
from blockformer.conformance.example import example, run
from registry import RecipeError


def stack(**params: Any) -> Any:
    return BlockCase("stack", "layers", {"depth": 2, **params}).build_perturbed()


def test_a_pattern_is_repeated_to_the_depth() -> None:
    layers = {
        name: {"type": "sequential", "mixer": {"type": "attention", "window": w}} for name, w in (("a", 2), ("b", 5))
    }
    built = stack(depth=6, layers=layers, pattern=("a", "a", "b"))
    assert [layer.mixer.window for layer in built.layers] == [2, 2, 5, 2, 2, 5]
    with_first = stack(depth=4, layers=layers, first=("b",), pattern=("a",))
    assert [layer.mixer.window for layer in with_first.layers] == [5, 2, 2, 2]


def test_layers_know_where_they_are() -> None:
    assert [(layer.site.layer, layer.site.depth) for layer in stack(depth=3).layers] == [(0, 3), (1, 3), (2, 3)]


def test_shared_layers_compute_what_equal_layers_compute() -> None:
    shared, apart = stack(depth=4, distinct=2), stack(depth=4)
    state = apart.state_dict()
    for name, value in shared.state_dict().items():
        part, _, rest = name.partition(".")
        if part != "layers":
            state[name] = value
            continue
        index, _, rest = rest.partition(".")
        state |= {f"layers.{2 * int(index) + turn}.{rest}": value for turn in range(2)}
    apart.load_state_dict(state)

    given = example(BlockCase("stack", "layers"))
    torch.testing.assert_close(run(shared, given), run(apart, given))
    assert shared.flops_per_token(5) == apart.flops_per_token(5)


def test_shared_layers_each_have_a_place_in_the_cache() -> None:
    sizes = {"dim": 32, "vocab_size": 41, "max_length": 16}
    check_cache_size_is_as_declared(
        BlockCase("model", "decoder_only", {**sizes, "decoder": {"depth": 4, "distinct": 2}})
    )


@pytest.mark.parametrize("positions", ["alibi", "t5"])
def test_positions_in_common_must_have_as_many_heads_as_the_mixers(positions: str) -> None:
    recipe = {"type": "decoder_only", "dim": 32, "decoder": {"depth": 2, "positions": {"type": positions, "heads": 3}}}
    with pytest.raises(RecipeError, match=r"decoder.*heads=3.*8"):
        bf.build(recipe)


def test_positions_in_common_need_mixers_with_scores() -> None:
    decoder = {"depth": 2, "layer": {"mixer": "linear"}, "positions": {"type": "alibi", "heads": 8}}
    with pytest.raises(RecipeError, match=r"heads=8.*none"):
        bf.build({"type": "decoder_only", "dim": 32, "decoder": decoder})


@pytest.mark.parametrize("key", ["window", "positions"])
def test_cross_attention_has_neither_window_nor_positions(key: str) -> None:
    overrides = {f"decoder.layer.cross.{key}": {"window": 4, "positions": "rotary"}[key]}
    with pytest.raises(RecipeError, match=f"mixer 'cross_attention' has no parameter '{key}'"):
        bf.build("tiny_encoder_decoder", overrides)


def test_self_attention_is_refused_as_cross_mixer() -> None:
    with pytest.raises(RecipeError, match=r"decoder\.layer\.cross: mixer 'attention' .*; choose cross_attention"):
        bf.build("tiny_encoder_decoder", {"decoder.layer.cross": {"type": "attention", "heads": 4}})
