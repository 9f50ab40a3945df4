"""Recorded intermediate values are those with which the forward pass goes on."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blockformer as bf
from blocks.base import Component, Context, Intermediate, Mixer, Residual, Site, listening
from blocks.base.intermediates import as_root
from blocks.feedforward.mlp import MLP
from blocks.norms.layer import LayerNorm
from blocks.positions.learned import LearnedPositions
from blocks.recurrent.gated_delta import GatedDelta

Recorded = dict[tuple[nn.Module, str], Tensor]


def recorded(model: nn.Module, *given: Any) -> Recorded:
    found: Recorded = {}
    with torch.no_grad(), listening(model, lambda block, name, value: found.update({(block, name): value})):
        model(*given)
    return found


def inputs_and_outputs(model: nn.Module, *given: Any) -> tuple[dict[nn.Module, Tensor], dict[nn.Module, Any]]:
    """What each module was given first, and what it returned, by hooks."""
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Any] = {}

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        inputs[module], outputs[module] = args[0], output

    handles = [module.register_forward_hook(note) for module in model.modules()]
    with torch.no_grad():
        model(*given)
    for handle in handles:
        handle.remove()
    return inputs, outputs


def tokens_of(model: Any) -> tuple[Tensor, ...]:
    ids = torch.randint(200, (1, 7), generator=torch.Generator().manual_seed(0))
    return (ids.flip(1), ids) if model.kind == "encoder_decoder" else (ids,)


RECIPES = ["tiny_decoder", "tiny_encoder", "tiny_encoder_decoder", "tiny_experts", "tiny_local_global", "tiny_hybrid"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_attention_records_what_its_projections_give_and_get(recipe: str) -> None:
    model = bf.build(recipe).eval()
    given = tokens_of(model)
    values, (inputs, outputs) = recorded(model, *given), inputs_and_outputs(model, *given)
    attentions = [block for block in model.modules() if isinstance(block, Mixer) and (block, "weights") in values]
    assert attentions
    for block in attentions:
        scores, masked = values[block, "scaled"], values.get((block, "masked"), values[block, "scaled"])
        weights, v = values[block, "weights"], values[block, "placed_v"]
        q, k = values[block, "placed_q"], values[block, "placed_k"]
        k, v = (y.repeat_interleave(q.shape[1] // y.shape[1], dim=1) for y in (k, v))
        torch.testing.assert_close(scores, q @ k.transpose(-2, -1) * block.scale)
        torch.testing.assert_close(weights, masked.softmax(dim=-1))
        torch.testing.assert_close(values[block, "weighted"], weights @ v, atol=1e-5, rtol=1e-4)
        assert torch.equal(values[block, "joined"], inputs[block.out])
        assert torch.equal(values[block, "weighted"].transpose(1, 2).flatten(2), inputs[block.out])
        if (block, "q") in values:
            assert torch.equal(values[block, "q"], outputs[block.q])
            assert torch.equal(values[block, "k"], outputs[block.k])


@pytest.mark.parametrize("recipe", RECIPES)
def test_residuals_and_feed_forwards_record_what_passes_through_them(recipe: str) -> None:
    model = bf.build(recipe).eval()
    given = tokens_of(model)
    values, (inputs, outputs) = recorded(model, *given), inputs_and_outputs(model, *given)
    for block in model.modules():
        if isinstance(block, Residual):
            total = inputs[block] + values[block, "update"]
            wanted = total if recipe != "tiny_encoder_decoder" else block.norm(total)
            torch.testing.assert_close(outputs[block], wanted)
        if (block, "activated") in values:
            assert torch.equal(values[block, "activated"], inputs[block.down])
            assert torch.equal(values[block, "hidden"], outputs[block.up])


def test_experts_record_the_choice_and_what_each_chosen_expert_gives() -> None:
    model = bf.build("tiny_experts").eval()
    given = tokens_of(model)
    values, (inputs, outputs) = recorded(model, *given), inputs_and_outputs(model, *given)
    block = model.get_submodule("decoder.layers.1.feedforward")
    weights, chosen = outputs[block.router]
    assert torch.equal(values[block.router, "weights"], weights)
    assert torch.equal(values[block.router, "chosen"], chosen)
    rows = values[block, "rows"]
    for token in range(7):
        assert sorted(rows[rows[:, 0] == token, 1].tolist()) == sorted(chosen[token].tolist())
    summed = (values[block, "expert_outputs"] * weights[..., None]).sum(1)
    torch.testing.assert_close(summed + outputs[block.shared][0], outputs[block][0])
    for (token, _), of_row in zip(rows.tolist(), inputs[block.experts], strict=True):
        assert torch.equal(of_row, inputs[block][0, token])


def test_a_recurrent_mixer_records_what_a_loop_over_its_rule_reads() -> None:
    torch.manual_seed(0)
    block = GatedDelta(Site(dim=16), heads=2).eval()
    nn.init.uniform_(block.convolution)
    x = torch.randn(1, 9, 16)
    found: dict[str, Tensor] = {}
    with torch.no_grad(), listening(block, lambda _, name, value: found.update({name: value})):
        block(x, Context.of(x))
    memory = torch.zeros(1, 2, 8, 8)
    for t in range(9):
        q, k, v = (found[name][:, :, t, :, None] for name in ("q", "k", "v"))
        memory = memory * found["decay"][:, :, t, None, None]
        memory = memory + k @ (found["strength"][:, :, t, None, None] * (v - memory.transpose(-2, -1) @ k)).mT
        torch.testing.assert_close(found["read"][:, :, t], (memory.mT @ q)[..., 0], atol=1e-5, rtol=1e-4)


def test_norms_and_positions_record_their_parts() -> None:
    norm, positions = LayerNorm(Site(dim=8)), LearnedPositions(Site(dim=8, max_length=5))
    x = torch.randn(1, 5, 8)
    values = recorded(norm, x)
    torch.testing.assert_close(values[norm, "mean"], x.mean(-1))
    torch.testing.assert_close(values[norm, "deviation"], (x.var(-1, correction=0) + 1e-5).sqrt())
    context = Context.of(x)
    encoding = recorded(positions, x, context)[positions, "encoding"]
    torch.testing.assert_close(x + encoding, positions(x, context))


def test_nothing_is_recorded_and_no_score_is_computed_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bf.build("tiny_decoder").eval()
    calls: list[Any] = []
    monkeypatch.setattr("blocks.attention.score_steps.attention_weights", lambda *given: calls.append(given))
    model(*tokens_of(model))
    assert calls == []
    assert not any(vars(block).get("listener") for block in model.modules())


def test_listening_ends_after_an_error() -> None:
    block = MLP(Site(dim=8))
    with pytest.raises(KeyError), listening(block, lambda *_: {}["x"]):
        block(torch.randn(1, 2, 8))
    assert not block.recording
    assert torch.isfinite(block(torch.randn(1, 2, 8))).all()


@pytest.mark.slow  # a compilation
def test_a_compiled_block_records_nothing_new_and_breaks_no_graph() -> None:
    block = MLP(Site(dim=8)).eval()
    x = torch.randn(1, 2, 8)
    compiled = torch.compile(block, fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x))


def test_formulas_have_the_numbers_of_the_block() -> None:
    class Scaled(Component):
        scale, size, half = 64**-0.5, 12, 0.5

    formula = Intermediate("A step.", ("token",), "{scale:root} S + {size} / {half}").formula_of(Scaled())
    assert formula == "1/sqrt(64) S + 12 / 0.5"
    assert [as_root(value) for value in (math.sqrt(512), 4.0, 1.0, 0.3, 0.0)] == ["sqrt(512)", "4", "1", "0.3", "0"]
