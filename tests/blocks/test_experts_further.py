"""Experts without weights, in a narrower space, and with scaled inputs, against loops over tokens."""

from typing import Any

import pytest
import torch

from blocks.base import Component, Context, Site
from blocks.feedforward.moe import MixtureOfExperts
from registry import RecipeError, parse

EXPERT = {"type": "mlp", "hidden": 20, "bias": True}


def made(**params: Any) -> MixtureOfExperts:
    block = parse("feedforward", {"type": "moe", "experts": 4, "expert": EXPERT, **params})(Site(dim=16))
    assert isinstance(block, MixtureOfExperts)
    with torch.no_grad():
        for index, parameter in enumerate(block.parameters()):
            parameter.normal_(0.0, 0.4, generator=torch.Generator().manual_seed(index))
    return block.eval()


def alone(block: MixtureOfExperts, width: int, expert: int) -> Component:
    one: Component = parse("feedforward", EXPERT)(Site(dim=width))
    one.load_state_dict({name: value[expert] for name, value in block.experts.state_dict().items()})
    return one.eval()


@pytest.mark.parametrize(
    "params",
    [
        {"identities": 3},
        {"scale_inputs": True},
        {"latent": 12, "latent_bias": True},
        {"identities": 2, "scale_inputs": True},
        {"bias": True},
    ],
    ids=str,
)
def test_gives_what_a_loop_over_tokens_gives(params: dict[str, Any]) -> None:
    block = made(router={"top_k": 3, "scores": "sigmoid"}, **params)
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    rows = x.flatten(0, 1)
    weights, chosen = block.router(rows)
    assert params.get("identities", 0) == 0 or (chosen >= 4).any()
    inner = rows if block.latent_down is None else block.latent_down(rows)
    experts = [alone(block, inner.shape[1], expert) for expert in range(4)]
    expected = []
    for row, own, chooses in zip(inner, weights, chosen.tolist(), strict=True):
        total = torch.zeros_like(row)
        for weight, expert in zip(own, chooses, strict=True):
            given = weight * row if block.scale_inputs else row
            y = given if expert >= 4 else experts[expert](given)
            total = total + (y if block.scale_inputs else weight * y)
        expected.append(total)
    found = torch.stack(expected) if block.latent_up is None else block.latent_up(torch.stack(expected))
    found = found if block.bias is None else found + block.bias
    y = block(x)
    torch.testing.assert_close(y.flatten(0, 1), found, rtol=1e-4, atol=1e-5)
    (ours,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
    (theirs,) = torch.autograd.grad(found.square().sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_bias_of_the_latent_needs_a_latent() -> None:
    with pytest.raises((ValueError, RecipeError), match="latent_bias needs latent"):
        made(latent_bias=True)


def test_experts_across_a_layer_are_added_at_its_end() -> None:
    layer: Any = parse("layer", {"type": "shortcut", "mixer": {"type": "attention", "heads": 4}})(Site(dim=16)).eval()
    x = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
    context, y = Context.of(x), x
    for half in range(2):
        y = y + layer.mixers[half](layer.mixer_residuals[half].norm(y), context)
        inner = layer.feedforward_residuals[half].norm(y)
        across = layer.shortcut(inner) if half == 0 else across  # noqa: F821
        y = y + layer.feedforwards[half](inner)
    torch.testing.assert_close(layer(x, context), y + across)


def test_experts_and_their_sum_have_norms_that_the_router_does_not_see() -> None:
    block = made(norm="layer", out_norm="rms", shared=EXPERT)
    x = torch.randn(2, 9, 16)
    weights, chosen = block.router(x.flatten(0, 1))
    y = block.out_norm(block._routed(block.norm(x.flatten(0, 1)), weights, chosen))
    torch.testing.assert_close(block(x).flatten(0, 1), y + block.shared(x).flatten(0, 1), rtol=1e-4, atol=1e-5)
