"""Optimizers and the loss in parts on a GPU, and grouped products: the same as on a CPU."""

import copy
from typing import Any

import pytest
import torch

import blockformer as bf
from blockformer.studies.training_step import peak_of
from blockformer.training.objectives.vocabulary_loss import LossTerms, loss_of_hidden
from blockformer.training.optimizers import OptimizerSettings
from blocks.base.grouped import fits_kernel, grouped_linear
from registry import entries
from tests.blocks.test_experts_grouped import ENDS, factors, row_by_row
from tests.gpu.comparison import GPU
from tests.training.test_optimizers import MOE, given_gradients, small

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", list(entries("optimizer")))
def test_an_optimizer_makes_the_same_steps(name: str, fused: bool) -> None:
    models = [small(feedforward=MOE)]
    models.append(copy.deepcopy(models[0]).to(GPU))
    given = {"precision": "float32"} if name == "muon" else {}
    optimizers: list[Any] = [OptimizerSettings(name, lr=0.01, **given).make(one, fused=fused) for one in models]
    for seed in range(3):
        given_gradients(models[0], seed)
        for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            other.grad = None if one.grad is None else one.grad.to(GPU)
        for optimizer in optimizers:
            if hasattr(optimizer, "begin_step"):
                optimizer.begin_step()
            optimizer.step()
    state = models[1].state_dict()
    for key, value in models[0].state_dict().items():
        torch.testing.assert_close(state[key].cpu(), value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: key + text)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head", ["tied", {"type": "own", "bias": True, "softcap": 5.0}], ids=["tied", "own"])
def test_a_loss_in_parts_is_that_of_all_logits(head: Any, dtype: torch.dtype | None) -> None:
    model = bf.build("tiny_decoder", {"vocab_size": 500, "head": head}, device=GPU)
    draw = torch.Generator().manual_seed(0)
    tokens, targets = (torch.randint(500, (2, 64), generator=draw).to(GPU) for _ in range(2))
    targets[0, 3:6] = -100

    def losses(chunk: int) -> dict[str, torch.Tensor]:
        model.zero_grad()
        with torch.autocast(GPU.type, dtype or torch.bfloat16, enabled=dtype is not None):
            loss, sums = loss_of_hidden(model, model(tokens, hidden=True), targets, LossTerms(0.1, 1e-3), chunk)
        loss.backward()
        gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        return {"loss": loss.detach(), "sums": sums.float(), **gradients}

    whole, tolerance = losses(0), 1e-4 if dtype is None else 3e-2
    for name, value in losses(32).items():
        scale = float(whole[name].abs().max())
        torch.testing.assert_close(value, whole[name], rtol=tolerance, atol=tolerance * scale, msg=name)


def test_a_loss_in_parts_takes_less_memory() -> None:
    if GPU.type == "cpu":
        pytest.skip("measures a GPU's memory")
    model = bf.build("tiny_decoder", {"vocab_size": 32768, "decoder.depth": 1}, device=GPU)
    targets = torch.randint(32768, (8, 512), device=GPU)

    def step(chunk: int | None) -> None:
        model.zero_grad()
        given = torch.randn(8, 512, 32, device=GPU, requires_grad=True)
        loss_of_hidden(model, given, targets, LossTerms(), chunk)[0].backward()

    parts, whole = (peak_of(lambda chunk=chunk: step(chunk), gpu=True) for chunk in (None, 0))
    assert parts < whole / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("width", [32, 33], ids=["for the kernel", "for the loop"])
@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_grouped_products_are_those_of_each_row(ends: list[int], width: int, dtype: torch.dtype) -> None:
    x, weight = (one.to(GPU, dtype).requires_grad_() for one in factors(width, 2 * width))
    assert fits_kernel(x, weight) == (width == 32 and dtype != torch.float64)
    y = grouped_linear(x, weight, torch.tensor(ends, dtype=torch.int32, device=GPU))
    (y * torch.linspace(-1, 1, y.numel(), device=GPU, dtype=dtype).view_as(y)).sum().backward()
    wide, wide_weight = (one.detach().cpu().double().requires_grad_() for one in (x, weight))
    expected = row_by_row(wide, wide_weight, ends)
    (expected * torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(expected)).sum().backward()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float64: 1e-12}[dtype]
    for found, exact in ((y, expected), (x.grad, wide.grad), (weight.grad, wide_weight.grad)):
        assert found is not None
        assert exact is not None
        atol = tolerance * float(exact.detach().abs().max())
        torch.testing.assert_close(found.detach().cpu().double(), exact.detach(), rtol=0, atol=atol)
