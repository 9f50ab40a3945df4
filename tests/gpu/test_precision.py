"""Mixed precision on a GPU: finite, and as near to float64 as on a CPU."""

import copy

import pytest
import torch

import blockformer as bf
from blockformer.conformance import BlockCase, registered
from blockformer.conformance.example import example
from blockformer.inspection.batch import random_batch
from blockformer.training.objectives import objective_for
from blockformer.training.score import TARGETS
from tests.gpu.comparison import GPU, assert_near, moved, values_of

pytestmark = pytest.mark.gpu
SLOTS = ("mixer", "feedforward", "layer", "stack", "model", "norm", "router")
RECIPES = ("tiny_decoder", "tiny_encoder", "tiny_encoder_decoder", "tiny_experts", "tiny_hybrid", "tiny_local_global")


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in registered("blocks") if c.slot in SLOTS])
def test_bfloat16_is_as_exact_as_on_a_cpu(case: BlockCase) -> None:
    block, given = case.build_perturbed(), example(case, length=11)
    exact = values_of(block, given)
    single, there = copy.deepcopy(block).float(), moved(given, torch.device("cpu"), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        usual = values_of(single, there)
    with torch.autocast(GPU.type, dtype=torch.bfloat16):
        found = values_of(single.to(GPU), moved(there))
    assert_near(found, usual, exact, base=0.05, factor=3.0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training_step_in_bfloat16_is_near_that_in_float32(recipe: str) -> None:
    model = bf.build(recipe, device=GPU).train()
    draw = torch.Generator().manual_seed(0)
    batch = {key: value.to(GPU) for key, value in random_batch(model, 4, 48, draw).items()}
    objective, losses, norms = objective_for(model.kind), list[float](), list[float]()
    for enabled in (False, True):
        model.eval() if recipe == "tiny_encoder_decoder" else model.train()  # whose recipe has dropout
        model.zero_grad()
        with torch.autocast(GPU.type, torch.bfloat16, enabled=enabled):
            loss, sums = objective(model, batch)
            loss = loss / sums[TARGETS] + model.auxiliary_loss()
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item())
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert norms[1] == pytest.approx(norms[0], rel=0.05)
