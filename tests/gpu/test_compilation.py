"""Compiled models on a GPU: equal to eager, compiled once for a shape and at most twice for all lengths."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import blockformer as bf
from blockformer.inspection.batch import random_batch
from blockformer.training.objectives import objective_for
from blockformer.training.score import TARGETS
from blocks.models.base import Model
from tests.gpu.comparison import GPU, Values, assert_near

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
SIZES = {"vocab_size": 512, "max_length": 256, "dim": 64}
NO_DROPOUT = ("embedding.dropout", "decoder.layer.residual.dropout", "decoder.layer.mixer.dropout")
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"decoder.layer.mixer.heads": 4, "decoder.layer.feedforward.hidden": 128}),
    "llama": ("tiny_decoder", {}),
    "llama with flex": ("tiny_decoder", {"decoder.layer.mixer.backend": "flex"}),
    "local and global": ("tiny_local_global", {"decoder.depth": 3}),
    "experts": ("tiny_experts", {"decoder.depth": 2}),
    "hybrid": ("tiny_hybrid", {}),
    "t5": ("t5_small", {}),
}
LENGTHS = (48, 64, 80, 112)
GRAPHS = {"hybrid": 4}
"""Graphs for all lengths; a recurrence has one for each number of chunks."""


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def build(name: str) -> Model:
    recipe, overrides = MODELS[name]
    sizes = dict(SIZES)
    if name == "t5":
        small = {"positions.heads": 4, "depth": 2, "layer.feedforward.hidden": 128, "layer.residual.dropout": 0.0}
        small |= {"layer.mixer.heads": 4, "layer.mixer.head_dim": 16, "layer.mixer.dropout": 0.0}
        small |= {"layer.feedforward.dropout": 0.0}
        overrides = {f"{stack}.{key}": value for stack in ("encoder", "decoder") for key, value in small.items()}
        cross = {"heads": 4, "head_dim": 16, "dropout": 0.0}
        overrides |= {f"decoder.layer.cross.{key}": value for key, value in cross.items()} | {"embedding.dropout": 0.0}
    elif name == "gpt2":
        overrides = {**overrides, **dict.fromkeys(NO_DROPOUT, 0.0), "decoder.depth": 2}
    return bf.build(recipe, sizes | overrides, device=GPU).train()


def step(model: Model, length: int, seed: int = 0) -> Values:
    """Loss and gradients on a random batch."""
    draw = torch.Generator().manual_seed(seed)
    batch = {key: value.to(GPU) for key, value in random_batch(model, 2, length, draw).items()}
    model.zero_grad()
    loss, sums = objective_for(model.kind)(model, batch)
    loss = loss / sums[TARGETS] + model.auxiliary_loss()
    loss.backward()
    gradients: dict[str, Tensor] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    found = {"output": loss} | {f"gradient of {name}": value for name, value in gradients.items()}
    return {name: value.detach().cpu() for name, value in found.items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_model_is_the_eager_one_and_is_compiled_once(name: str) -> None:
    if GPU.type == "cpu" and "flex" in name:
        pytest.skip("flex has no gradients on a CPU")
    model = build(name)
    expected = [step(model, 64, seed) for seed in range(3)]
    model.compile()
    first = step(model, 64, 0)
    graphs = counters["stats"]["unique_graphs"]
    found = [first, *(step(model, 64, seed) for seed in (1, 2))]
    assert counters["stats"]["unique_graphs"] == graphs, "compiled again for a batch of the same shape"
    assert not counters["graph_break"], dict(counters["graph_break"])
    for ours, theirs in zip(found, expected, strict=True):
        assert_near(ours, theirs, theirs, base=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_compiled_at_most_twice_for_all_lengths(name: str) -> None:
    if GPU.type == "cpu" and "flex" in name:
        pytest.skip("flex has no gradients on a CPU")
    model = build(name)
    expected = {length: step(model, length) for length in LENGTHS}
    model.compile()
    for length in LENGTHS:
        assert_near(step(model, length), expected[length], expected[length], base=1e-3)
    assert counters["stats"]["unique_graphs"] <= GRAPHS.get(name, 2)


@pytest.mark.parametrize("backend", ["auto", "flex", "sdpa"])
def test_a_compiled_model_keeps_documents_apart(backend: str) -> None:
    if GPU.type == "cpu" and backend == "flex":
        pytest.skip("flex has no gradients on a CPU")
    model = bf.build("tiny_decoder", SIZES | {"max_length": 512, "decoder.layer.mixer.backend": backend}, device=GPU)
    tokens = torch.randint(SIZES["vocab_size"], (2, 400), device=GPU)
    documents = (torch.arange(400, device=GPU) // torch.tensor([[61], [150]], device=GPU)).long()

    def values() -> Values:
        model.zero_grad()
        y = model(tokens, documents=documents)
        y.logsumexp(-1).sum().backward()
        gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
        return {"output": y.detach().cpu(), **gradients}

    expected = values()
    model.compile()
    assert_near(values(), expected, expected, base=1e-3)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"], dict(counters["graph_break"])


@pytest.mark.parametrize("recipe", ["tiny_decoder", "tiny_experts"])
def test_a_compiled_training_step_in_bfloat16_learns(recipe: str) -> None:
    model = bf.build(recipe, SIZES, device=GPU).train()
    model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    batch = {key: value.to(GPU) for key, value in random_batch(model, 4, 64, torch.Generator().manual_seed(0)).items()}
    losses: list[float] = []
    for _ in range(30):
        with torch.autocast(GPU.type, torch.bfloat16):
            loss, sums = objective_for(model.kind)(model, batch)
            loss = loss / sums[TARGETS]
        (loss + model.auxiliary_loss()).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
