"""Mixers made of other mixers, or of experts, compute what these compute."""

from typing import Any

import pytest
import torch

import blockformer as bf
from blocks.base import Cache, Site
from registry import RecipeError, parse
from tests.blocks.test_recurrent import SSD, mixer, normal, run

ATTENTION: dict[str, Any] = {"type": "attention", "heads": 4, "window": 3}
SCALED: dict[str, Any] = {"type": "scaled", "by": 0.6, "input_by": 1.5, "inner": SSD}
BOTH: dict[str, Any] = {"type": "parallel", "mixers": {"near": ATTENTION, "state": SCALED}}


@torch.no_grad()
def test_parallel_mixers_are_summed_and_scaled() -> None:
    block, x = mixer(BOTH), normal(2, 9, 32)
    expected = run(block.mixers["near"], x) + 0.6 * run(block.mixers["state"].inner, 1.5 * x)
    torch.testing.assert_close(run(block, x), expected, rtol=0.0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[9], [1] * 9, [4, 3, 2]])
def test_parallel_mixers_have_states_of_their_own(sizes: list[int]) -> None:
    block = mixer({"type": "parallel", "mixers": {"one": BOTH, "other": SSD, "near": ATTENTION}})
    x, cache = normal(2, 9, 32), Cache(1)
    parts = torch.cat([run(block, part, cache) for part in x.split(sizes, dim=1)], dim=1)
    torch.testing.assert_close(parts, run(block, x), rtol=0.0, atol=1e-11)
    assert set(cache.layers[0]) == {"one.near.mixer", "one.state.mixer", "other.mixer", "near.mixer"}


def test_the_window_of_parallel_mixers_is_the_widest() -> None:
    wide = {**ATTENTION, "window": 5}
    assert mixer({"type": "parallel", "mixers": {"a": ATTENTION, "b": {"type": "scaled", "inner": wide}}}).window == 5
    assert mixer(BOTH).window is None


@pytest.mark.parametrize(
    ("mixers", "words"), [({}, "mixers is empty"), ({"values": ATTENTION}, "mixers cannot have the name 'values'")]
)
def test_parallel_mixers_refuse_what_cannot_be_built(mixers: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse("mixer", {"type": "parallel", "mixers": mixers})(Site(dim=32))


def test_a_mixer_inside_another_that_does_not_fit_is_named() -> None:
    layer = {"mixer": {"type": "parallel", "mixers": {"state": "ssd"}}}
    with pytest.raises(RecipeError, match="mixer 'ssd' does not support bidirectional mixing"):
        bf.build({"type": "encoder_only", "dim": 32, "vocab_size": 8, "encoder": {"depth": 1, "layer": layer}})


@torch.no_grad()
def test_heads_of_the_chosen_experts_attend_to_keys_of_all_tokens() -> None:
    params = {"experts": 3, "heads": 4, "kv_heads": 2, "head_dim": 6, "router": {"type": "top_k", "top_k": 2}}
    block, x = mixer({"type": "routed_attention", **params, "bias": True, "window": 4}), normal(2, 7, 32)
    k, v = block.k(x), block.v(x)
    expected = torch.zeros_like(x)
    for b in range(2):
        for t in range(7):
            weights, chosen = block.router(x[b, t : t + 1])
            first = max(0, t - 3)
            for weight, expert in zip(weights[0].tolist(), chosen[0].tolist(), strict=True):
                heads = []
                for h, q in enumerate((block.q.weight[expert] @ x[b, t]).view(4, 6)):
                    scores = k[b, h // 2, first : t + 1] @ q * 6**-0.5
                    heads.append(scores.softmax(0) @ v[b, h // 2, first : t + 1])
                expected[b, t] += weight * (block.out.weight[expert] @ torch.cat(heads))
    torch.testing.assert_close(run(block, x), expected + block.out_bias)
