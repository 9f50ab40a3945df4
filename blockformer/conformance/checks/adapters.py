"""Adapters start at zero and can be folded into weights, and blocks call their projections, so that adapters act."""

from typing import cast

import torch
from torch import Tensor

from blockformer.conformance.block_case import DIM, EXPERTS, BlockCase, NotApplicable
from blockformer.conformance.example import EXACT, assert_same, example, new_cache, run
from blocks.adapters.lora import LoRA
from blocks.attention.key_selector import KeySelector
from blocks.base import Adapter, Component, Linear
from blocks.init.keyed import generator, initialise
from blocks.init.schemes import Xavier

RANK = 2


def check_adapter_starts_at_zero(case: BlockCase) -> None:
    """With initial values the output is exactly 0, so that an adapted model starts as the model itself."""
    adapter = case.construct()
    initialise(adapter, Xavier(), 0)
    y = run(adapter.double().eval(), example(case))
    assert_same(y, torch.zeros_like(y), "the output with initial values", EXACT)


def check_adapter_equals_its_delta(case: BlockCase) -> None:
    """The output is the product with ``delta()``, for one projection and for experts."""
    adapter, given = cast("Adapter", case.build_perturbed()), example(case)
    assert_same(run(adapter, given), given.x @ adapter.delta().mT, "the output")
    experts = cast("Adapter", case.spec(DIM, DIM, EXPERTS)).double().eval()
    initialise(experts, Xavier(), 0)
    for name, parameter in experts.named_parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator(1, name)))
    rows = given.x.flatten(0, 1)
    ends = torch.arange(1, EXPERTS + 1, dtype=torch.int32) * len(rows) // EXPERTS
    parts = rows.tensor_split(cast("list[int]", ends.tolist())[:-1])
    expected = torch.cat([part @ delta.mT for part, delta in zip(parts, experts.delta(), strict=True)])
    assert_same(experts(rows, ends), expected, "the output for experts")


def check_projections_take_adapters(case: BlockCase) -> None:
    """Each ``Linear`` acts through its adapter, in decoding too, and folded into the weights it gives the same."""
    block, given = case.build_perturbed(), example(case)
    projections = {name: module for name, module in block.named_modules() if isinstance(module, Linear)}
    if not projections:
        raise NotApplicable("the block has no projection of blocks.base.Linear")
    selectors = [part for _, part in block.components() if isinstance(part, KeySelector)]  # choices have no gradient
    apart = {part for selector in selectors for part in selector.modules()}
    for name, projection in projections.items():
        projection.adapter = _adapter(name, projection)
    expected = run(block, given)
    if any(projection not in apart for projection in projections.values()):
        expected.sum().backward()
    for name, projection in projections.items():
        assert projection.adapter is not None
        if projection in apart:
            continue
        reached = [one.grad is not None and bool(one.grad.any()) for one in projection.adapter.parameters()]
        assert all(reached), f"{name}: its adapter has no effect; call the projection instead of using its weight"
    assert_same(_decoded(case, block), _decoded(case, block, at_once=True), "decoded with adapters")
    for projection in projections.values():
        projection.merge()
    assert_same(run(block, given), expected, "with the adapters folded into the weights")


def _adapter(name: str, projection: Linear) -> Adapter:
    made = LoRA(projection.in_features, projection.out_features, projection.experts, rank=RANK).double().eval()
    for leaf, parameter in made.named_parameters():
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator(0, f"{name}.{leaf}")))
    return made


@torch.no_grad()
def _decoded(case: BlockCase, block: Component, *, at_once: bool = False) -> Tensor:
    """The outputs token by token with a cache, if the block supports it, or of one forward."""
    given = example(case)
    if at_once or case.slot not in ("mixer", "model") or case.place == "bidirectional" or not block.allows("cache"):
        return run(block, given)
    cache = new_cache(block)
    return torch.cat([run(block, given.span(time, time + 1), cache) for time in range(given.x.shape[1])], dim=1)
