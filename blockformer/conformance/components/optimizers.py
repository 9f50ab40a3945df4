"""An optimizer changes every parameter, keeps what it says, and goes on from its state as if it had not stopped."""

import io
from typing import Any

import torch
from torch import Tensor

from blockformer.conformance.block_case import BlockCase
from blockformer.conformance.components.examples import give_gradients, made, small_module
from blockformer.training.optimizers import OptimizerComponent, OptimizerSettings
from blocks.models.base import Model


def check_a_step_changes_every_parameter(case: BlockCase) -> None:
    """A step with gradients changes each parameter, and leaves it finite."""
    model = small_module()
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    _steps(model, _made(case, model), range(3))
    for name, one in model.named_parameters():
        assert one.isfinite().all(), f"{name} is not finite after three steps"
        assert not torch.equal(one, before[name]), f"three steps do not change {name}"


def check_leaves_parameters_without_gradients(case: BlockCase) -> None:
    """A parameter that has no gradient stays as it is."""
    model = small_module()
    optimizer = _made(case, model)
    first, *_ = model.parameters()
    before = first.detach().clone()
    _begin(optimizer)
    give_gradients(model, 0)
    first.grad = None
    optimizer.step()
    assert torch.equal(first, before), "a step changes a parameter without a gradient"


def check_goes_on_from_its_state(case: BlockCase) -> None:
    """A run that stores its state and goes on from it has, bit for bit, the weights of a run that does not stop."""
    whole, half = small_module(), small_module()
    _steps(whole, _made(case, whole), range(6))
    first = _made(case, half)
    _steps(half, first, range(3))
    stored = io.BytesIO()
    torch.save({"optimizer": first.state_dict(), "model": half.state_dict()}, stored)
    stored.seek(0)
    state = torch.load(stored, weights_only=True)
    again = small_module(seed=1)
    second = _made(case, again)
    again.load_state_dict(state["model"])
    second.load_state_dict(state["optimizer"])
    _steps(again, second, range(3, 6))
    for (name, one), other in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), f"{name} differs from that of a run without a stop"


def check_takes_a_closure(case: BlockCase) -> None:
    """`step(closure)` calls the closure once, with gradients, returns its value, and makes the step without it."""
    model, plain = small_module(), small_module()
    optimizer, calls = _made(case, model), 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        assert torch.is_grad_enabled(), "the closure is called without gradients"
        give_gradients(model, 0)
        return torch.tensor(4.5)

    _begin(optimizer)
    value = optimizer.step(closure)
    assert calls == 1, f"step calls the closure {calls} times"
    assert value == torch.tensor(4.5), f"step returns {value}, not the value of the closure"
    _steps(plain, _made(case, plain), range(1))
    for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other), f"the step with a closure gives another {name}"


def check_keeps_what_it_declares(case: BlockCase) -> None:
    """The tensors of its state are those of `state_shapes`, on which the estimate of memory rests."""
    model, component = small_module(), made(case, OptimizerComponent)
    optimizer = _made(case, model)
    _steps(model, optimizer, range(1))
    names = {one: name for name, one in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kept = {key: tuple(one.shape) for key, one in optimizer.state[parameter].items() if isinstance(one, Tensor)}
            declared = component.state_shapes(parameter, matrix=group["matrix"])
            assert kept == declared, f"{names[parameter]}: the state has {kept}, and state_shapes says {declared}"


def check_finds_the_minimum_of_a_bowl(case: BlockCase) -> None:
    """At the best of three learning rates, the distance to a minimum becomes less than half of what it was."""
    shares = [_share_left(case, rate) for rate in (0.005, 0.02, 0.1)]
    assert min(shares) < 0.5, f"after 150 steps {min(shares):.0%} of the distance to a minimum are left"


def _share_left(case: BlockCase, rate: float) -> float:
    model, generator = small_module(), torch.Generator().manual_seed(0)
    optimizer = _made(case, model, weight_decay=0.0)
    wanted = {one: torch.randn(one.shape, generator=generator) * 0.1 for one in model.parameters()}

    def distance() -> float:
        return sum((one.detach() - target).square().sum().item() for one, target in wanted.items())

    before = distance()
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / 150)
        _begin(optimizer)
        for parameter, target in wanted.items():
            parameter.grad = parameter.detach() - target
        optimizer.step()
    return (distance() / before) ** 0.5


def _made(case: BlockCase, model: Model, **settings: Any) -> Any:
    """The optimizer of a model, as a run makes it."""
    made(case, OptimizerComponent)
    return OptimizerSettings(case.name, **{"lr": 0.01, **settings}, **case.params).make(model, fused=False)


def _begin(optimizer: Any) -> None:
    """What a training step does before its gradients are computed."""
    if hasattr(optimizer, "begin_step"):
        optimizer.begin_step()


def _steps(model: Model, optimizer: Any, seeds: range) -> None:
    for seed in seeds:
        _begin(optimizer)
        give_gradients(model, seed)
        optimizer.step()
