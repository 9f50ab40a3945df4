"""Compilation layer by layer: the same losses and names, and code that equal layers share."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import blockformer as bf
from blockformer.training.activation_checkpointing import Checkpointing, checkpoint_layers
from blockformer.training.compilation import compile_model
from blocks.base import Layer
from tests.training.test_activation_checkpointing import EXPERTS, step

KINDS = {
    "experts": {"decoder.layer.feedforward": EXPERTS},
    "stochastic depth": {"decoder.layer.residual": {"type": "stochastic_depth", "rate": 0.5}},
    "streams": {"decoder.layer": "altup"},
}


def test_only_the_forward_of_layers_is_compiled_and_names_stay() -> None:
    model = bf.build("tiny_decoder")
    names = list(model.state_dict())
    compile_model(model, "layer", backend="eager")
    assert model._compiled_call_impl is None
    assert all("forward" in vars(module) for module in model.modules() if isinstance(module, Layer))
    assert list(model.state_dict()) == names
    checkpoint_layers(model, "none")
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "how"), [("experts", "layer"), ("experts", "none"), ("stochastic depth", "none"), ("streams", "none")]
)
def test_equal_layers_share_a_graph_for_each_length(kind: str, how: Checkpointing) -> None:
    depth = 10
    model = bf.build("tiny_decoder", {"decoder.depth": depth, **KINDS[kind]}).train()
    expected = {length: step(model, length) for length in (12, 9, 7)}
    torch.compiler.reset()
    count = CompileCounterWithBackend("aot_eager")
    checkpoint_layers(model, how)
    compile_model(model, "layer", backend=count)
    for length, values in expected.items():
        torch.testing.assert_close(step(model, length), values, rtol=1e-4, atol=1e-6)
    graphs = depth if kind == "stochastic depth" else 1  # where each layer has a probability of its own
    assert count.frame_count <= 2 * graphs  # for the first length, and for all others
