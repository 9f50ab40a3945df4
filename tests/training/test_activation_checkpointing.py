"""Activation checkpointing changes no loss and no gradient, not by a bit, and no name."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import blockformer as bf
import registry
from blockformer.inspection.batch import logits_of, random_batch
from blockformer.inspection.memory import memory
from blockformer.training.activation_checkpointing import KEPT, Checkpointing, checkpoint_layers
from blockformer.training.compilation import compile_model
from blockformer.training.objectives import MultiTokenPrediction, objective_for
from blockformer.training.objectives.multi_token_prediction import extra_of
from blockformer.training.score import TARGETS
from blocks.base import Layer
from blocks.models.base import Model
from tests.inspection.test_memory import really_saved

SOME: tuple[Checkpointing, ...] = ("layer", "selective")
EXPERTS = {"type": "moe", "experts": 4, "expert": {"type": "glu", "hidden": 16}}
"""Their router has a balance loss, whose gradient does not come through the layer's output."""
INDEXED = {"type": "latent", "heads": 4, "selector": {"type": "indexer", "heads": 4, "keep": 3}}
"""Its loss is computed in the layers."""
REUSING = {"mixer": {**INDEXED, "selector": "earlier"}}
SHARED = {
    "decoder.depth": 4,
    "decoder.layers": {"a": {"mixer": INDEXED}, "b": REUSING},
    "decoder.pattern": ["a", "b"],
}
ATTENTION = {"type": "attention", "heads": 4, "positions": "rotary"}
OWN_AND_REUSED = {
    "decoder.depth": 4,
    "decoder.layers": {"a": {"mixer": ATTENTION}, "b": {"mixer": {**ATTENTION, "reuse_kv": True}}},
    "decoder.pattern": ["a", "b"],
}
T5 = {"decoder.positions": {"type": "t5", "heads": 4}, "extra_predictions": ["parallel"]}
DROPOUT = {"embedding.dropout": 0.1, "decoder.layer.residual.dropout": 0.2, "decoder.layer.mixer.dropout": 0.2}
MODELS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "decoder": ("tiny_decoder", DROPOUT),
    "encoder": ("tiny_encoder", {"encoder.layer.residual.dropout": 0.2}),
    "encoder-decoder": ("tiny_encoder_decoder", {}),
    "experts": ("tiny_decoder", DROPOUT | {"decoder.layer.feedforward": EXPERTS}),
    "layers that run twice": ("tiny_decoder", DROPOUT | {"decoder.distinct": 1, "decoder.layer.feedforward": EXPERTS}),
    "a bias of the stack alone": ("tiny_decoder", T5),
    "stochastic depth": ("tiny_decoder", {"decoder.layer.residual": {"type": "stochastic_depth", "rate": 0.5}}),
    "blocks of queries": ("tiny_decoder", {"decoder.layer.mixer.backend": "blocked", **DROPOUT}),
    "hybrid": ("tiny_hybrid", {}),
    "index of keys": ("tiny_decoder", {"decoder.layer.mixer": INDEXED}),
    "an index for several layers": ("tiny_decoder", SHARED),
    "keys of an earlier layer": ("tiny_decoder", OWN_AND_REUSED),
}


def built(name: str) -> Model:
    recipe, overrides = MODELS[name]
    return bf.build(recipe, overrides).train()


def step(model: Model, length: int = 12) -> dict[str, Tensor]:
    """The loss and the gradients of a batch, with the same dropout in each call."""
    batch = random_batch(model, 2, length, torch.Generator().manual_seed(0))
    if model.kind == "encoder_decoder":
        batch["source_mask"] = torch.arange(length) < torch.tensor([[length], [5]])
    torch.manual_seed(1)
    model.zero_grad()
    loss, sums = (MultiTokenPrediction() if extra_of(model) else objective_for(model.kind))(model, batch)
    loss = loss / sums[TARGETS] + model.auxiliary_loss()
    loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return {"loss": loss.detach(), **gradients, "a later draw": torch.rand(3)}


def assert_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


@pytest.mark.parametrize("how", SOME)
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_the_same_to_the_bit(name: str, how: Checkpointing) -> None:
    model = built(name)
    names, expected = list(model.state_dict()), step(model)
    checkpoint_layers(model, how)
    assert list(model.state_dict()) == names
    assert_equal(step(model), expected)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = step(model)
    checkpoint_layers(model, "none")
    assert_equal(step(model), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(step(model), mixed)


@pytest.mark.parametrize("how", SOME)
def test_each_layer_runs_again_in_the_backward_pass_and_evaluation_runs_once(how: Checkpointing) -> None:
    model, runs = built("decoder"), list[int]()
    first = next(module for module in model.modules() if isinstance(module, Layer))
    first.mixer.register_forward_pre_hook(lambda *_: runs.append(1))
    checkpoint_layers(model, how)
    step(model)
    assert len(runs) == 2
    with torch.no_grad():
        logits_of(model, random_batch(model, 1, 4))
    assert len(runs) == 3


def test_the_load_of_experts_is_counted_once() -> None:
    loads: list[Tensor] = []
    for how in ("none", "layer", "selective"):
        model = built("layers that run twice")
        checkpoint_layers(model, how)
        step(model)
        load = model.routers[0].balance.take_load()
        assert load is not None
        loads.append(load)
    assert loads[0].sum() == 2 * 2 * 12 * 2  # runs, rows, tokens, experts of a token
    assert all(torch.equal(load, loads[0]) for load in loads)


def test_decoding_with_a_cache_is_not_checkpointed() -> None:
    model = built("decoder").eval()
    tokens = torch.arange(6)[None]
    expected = model(tokens)
    checkpoint_layers(model, "layer")
    cache = model.new_cache()
    parts = [model(tokens[:, :4], cache=cache), model(tokens[:, 4:], cache=cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected)


def test_a_copy_runs_its_own_weights() -> None:
    model = built("encoder")
    checkpoint_layers(model, "layer")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert step(other)["loss"] != step(model)["loss"]


class Counted(TorchDispatchMode):
    """Counts the operators whose results `selective` keeps, where they are really computed."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.runs += func in KEPT
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["encoder-decoder", "experts", "blocks of queries"])
def test_products_with_weights_and_attention_are_not_computed_again(name: str) -> None:
    runs: dict[str, int] = {}
    for how in ("none", "layer", "selective"):
        model = built(name)
        checkpoint_layers(model, how)
        with Counted() as counted:
            step(model)
        runs[how] = counted.runs
    assert runs["none"] == runs["selective"] < runs["layer"]


@pytest.mark.parametrize("name", ["tiny_experts", "tiny_encoder_decoder"])
def test_the_memory_that_is_shown_is_what_autograd_keeps(name: str) -> None:
    found = memory(registry.load_recipe(name), "fp32", 2, 24, checkpointing="layer")
    model = bf.build(name).train()
    checkpoint_layers(model, "layer")
    assert sum(found.activations.values()) + found.loss == really_saved(model, 2, 24, "fp32")


def test_selective_keeps_the_results_of_products_and_attention_besides() -> None:
    layer, selective = (memory(registry.load_recipe("tiny_decoder"), "fp32", 2, 24, checkpointing=how) for how in SOME)
    tokens, layers, heads = 2 * 24, 2, 4
    q, k, v, attended, out, gate, up, down = 32, 16, 16, 32, 32, 64, 64, 32
    more = tokens * layers * (q + k + v + attended + heads + out + gate + up + down) * 4
    assert sum(selective.activations.values()) - sum(layer.activations.values()) == more


@pytest.mark.slow
def test_less_is_kept() -> None:
    none, selective, layer = (
        sum(memory(registry.load_recipe("tiny_decoder"), "bf16-mixed", 2, 64, checkpointing=how).activations.values())
        for how in ("none", "selective", "layer")
    )
    assert layer < selective < none


@pytest.mark.slow
@pytest.mark.parametrize("how", SOME)
def test_a_compiled_model_is_checkpointed_alike(how: Checkpointing) -> None:
    model = built("experts")
    torch.compiler.reset()
    compile_model(model, True, backend="aot_eager")
    expected = step(model)
    torch.compiler.reset()
    checkpoint_layers(model, how)
    compile_model(model, True, backend="aot_eager")
    assert_equal(step(model), expected)
