"""Layers that attend to the keys and values of an earlier layer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from blockformer.conformance import BlockCase
from blocks.base import Cache, Context, Site
from blocks.extra_predictions.sequential import SequentialPrediction
from blocks.stacks.layers import LayerStack
from registry import parse

DIM = 16
OWN: dict[str, Any] = {"type": "attention", "heads": 4, "kv_heads": 2, "positions": "rotary"}


def stack(pattern: str, **mixers: dict[str, Any]) -> LayerStack:
    given = {
        name: OWN | mixers.get(name, {}) if "mixers" not in mixers.get(name, {}) else mixers[name] for name in pattern
    }
    layers = {name: {"mixer": given[name], "feedforward": "none"} for name in sorted(set(pattern))}
    params = {"depth": len(pattern), "layers": layers, "pattern": tuple(pattern), "norm": None}
    torch.manual_seed(0)
    made = BlockCase("stack", "layers", params).spec(Site(dim=DIM))
    return made.double().eval()


def inputs(length: int = 9) -> Tensor:
    return torch.randn(2, length, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def outputs(block: LayerStack, x: Tensor) -> Tensor:
    with torch.no_grad():
        return block(x, Context.of(x))


def test_it_is_attention_with_the_projections_of_keys_and_values_of_the_earlier_layer_on_its_input() -> None:
    block, x = stack("ab", b={"reuse_kv": True}), inputs()
    first, second = block.layers
    plain = stack("a")
    plain.layers[0].load_state_dict(first.state_dict())
    mixed = outputs(plain, x)  # (B, T, D), the stream after the first layer
    with torch.no_grad():
        context = Context.of(x)
        keys, values = first.mixer_residual.norm(x), second.mixer_residual.norm(mixed)
        k, v = first.mixer.k(keys), first.mixer.v(keys)
        q = second.mixer.positions.rotate(second.mixer.q(values), context)
        k = second.mixer.positions.rotate(k, context)
        k, v = (y.repeat_interleave(2, dim=1) for y in (k, v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        expected = mixed + second.mixer.out(y.transpose(1, 2).flatten(2))
    torch.testing.assert_close(outputs(block, x), expected)


def test_it_has_no_projections_of_keys_and_values_and_caches_none() -> None:
    mixer = stack("ab", b={"reuse_kv": True, "qk_norm": "rms", "v_norm": "rms"}).layers[1].mixer
    assert [name for name, _ in mixer.named_parameters()] == ["q.weight", "out.weight", "q_norm.weight"]
    assert mixer.cached_per_token == 0


def test_the_nearest_layer_of_the_same_window_gives_the_keys() -> None:
    local, own = {"window": 3}, {"window": None}
    block, x = stack("abcd", a=local, b=own, c=local | {"reuse_kv": True}, d=own | {"reuse_kv": True}), inputs()
    before = outputs(block, x)
    for layer, changes in ((0, "c"), (1, "d")):
        reused = block.layers["abcd".index(changes)].mixer
        seen: list[Tensor] = []
        hook = reused.register_forward_hook(lambda module, args, y, seen=seen: seen.append(y))
        outputs(block, x)
        weight = block.layers[layer].mixer.v.weight
        kept = weight.detach().clone()
        weight.data.zero_()
        outputs(block, x)
        hook.remove()
        assert seen[0].abs().max() > 0
        assert seen[1].abs().max() == 0  # with values of 0 from that layer alone
        weight.data.copy_(kept)
    torch.testing.assert_close(outputs(block, x), before, rtol=0, atol=0)


@pytest.mark.parametrize("window", [None, 3])
def test_decoding_equals_the_forward_pass(window: int | None) -> None:
    both = {"window": window}
    block, x = stack("abb", a=both, b=both | {"reuse_kv": True}), inputs()
    cache, found = Cache(3), list[Tensor]()
    with torch.no_grad():
        for begin, end in ((0, 5), *((at, at + 1) for at in range(5, 9))):
            found.append(block(x[:, begin:end], Context.of(x[:, begin:end], cache=cache)))
            cache.advance(end - begin)
    torch.testing.assert_close(torch.cat(found, dim=1), outputs(block, x))
    assert [len(states) for states in cache.layers] == [1, 0, 0]


@pytest.mark.parametrize("other", [{"window": 3}, {"kv_heads": 1}, {"head_dim": 8}, {"positions": "none"}])
def test_keys_of_another_form_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no layer before it has keys and values of its own with the same kv_heads"):
        stack("ab", a=other, b={"reuse_kv": True})


def test_there_must_be_an_earlier_layer() -> None:
    with pytest.raises(ValueError, match="layer 0 has reuse_kv"):
        stack("ba", b={"reuse_kv": True})
    twice = {"type": "parallel", "mixers": {"one": OWN, "other": OWN}}
    with pytest.raises(ValueError, match="layer 1 has reuse_kv, but layer 0 has several mixers with such keys"):
        stack("ab", a=twice, b={"reuse_kv": True})
    reusing = parse("layer", {"type": "sequential", "mixer": OWN | {"reuse_kv": True}})
    with pytest.raises(ValueError, match="layer 0 has reuse_kv"):
        SequentialPrediction(Site(dim=DIM), layer=reusing)


@pytest.mark.parametrize("named", [{"bias": ("q", "v")}, {"groups": {"k": 2}}])
def test_projections_that_it_does_not_have_are_refused(named: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="with reuse_kv there is no such projection"):
        stack("ab", b={"reuse_kv": True, **named})
