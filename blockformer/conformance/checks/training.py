"""Gradients, dropout, and learning one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from blockformer.assembly.unused_keys.module_equality import certainly_equal
from blockformer.conformance.block_case import VOCABULARY, BlockCase, NotApplicable, dropout_paths
from blockformer.conformance.example import EXACT, Example, assert_same, example, reset_rng, run
from blocks.attention.key_selector import KeySelector
from blocks.base import Component
from blocks.init.keyed import generator
from blocks.models.base import Model


def check_gradients_reach_every_parameter(case: BlockCase) -> None:
    """Each parameter gets a finite gradient that is not all zero: distributed training waits for every one of them."""
    gradients = gradients_of(case.build_perturbed(), example(case))
    if not gradients:
        raise NotApplicable("nothing has a gradient")
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values()), "a gradient is not finite"
    still = [name for name, gradient in gradients.items() if not bool(gradient.any())]
    assert not still, f"no gradient reaches {', '.join(still)}"


def check_gradients_match_finite_differences(case: BlockCase) -> None:
    """Gradients by inputs and parameters equal finite differences in float64."""
    block, given = case.build_perturbed(), floating(example(case, batch=1, length=3))
    tensors: dict[str, Tensor] = {} if case.reads_ids else {"the input": given.x}
    tensors |= reached_by_outputs(block)
    if not tensors:
        raise NotApplicable("nothing has a gradient")
    y = run(block, given)
    weights = torch.randn(y.shape, generator=generator(0, "weights"), dtype=y.dtype)
    slopes = torch.autograd.grad((y * weights).sum(), list(tensors.values()))
    size = max(1.0, float((y * weights).detach().abs().sum()))
    for (name, tensor), slope in zip(tensors.items(), slopes, strict=True):
        step = torch.randn(tensor.shape, generator=generator(0, name), dtype=tensor.dtype)
        step /= step.norm()
        declared, start, found = float((slope * step).sum()), tensor.detach().clone(), 0.0
        for length, noise in STEP_LENGTHS.items():
            with torch.no_grad():
                sums = list[float]()
                for moved in (start + length * step, start - length * step):
                    tensor.copy_(moved)
                    sums.append(float((run(block, given) * weights).sum()))
                tensor.copy_(start)
            found = (sums[0] - sums[1]) / (2 * length)
            if abs(found - declared) <= noise * size + 1e-3 * abs(declared):
                break
        else:
            raise AssertionError(f"a step of {name} changes the outputs by {found:.3g}; by the gradient {declared:.3g}")


STEP_LENGTHS = {1e-6: 1e-7, 1e-8: 1e-6}  # in float64, each with its rounding; a short one does not cross a ReLU's kink


def check_zero_inputs_give_finite_gradients(case: BlockCase) -> None:
    """Inputs of zeros, such as padding, give finite outputs and gradients."""
    block, given = case.build_perturbed(), example(case)
    zeros = Example(torch.zeros_like(given.x), memory=given.memory)
    assert bool(torch.isfinite(run(block, zeros)).all()), "zero inputs give values that are not finite"
    for name, gradient in gradients_of(block, zeros).items():
        assert bool(torch.isfinite(gradient).all()), f"zero inputs: the gradient of {name} is not finite"


def check_activation_checkpointing_changes_nothing(case: BlockCase) -> None:
    """Activation checkpointing changes no gradient, also with dropout."""
    for path in dropout_paths(case):
        case = case.put(path, 0.5)
    block, given = case.build_perturbed().train(), example(case)
    found: list[dict[str, Tensor]] = []
    for again in (False, True):
        reset_rng()
        found.append(gradients_of(block, given, again=again))
    if not found[0]:
        raise NotApplicable("nothing has a gradient")
    for name, gradient in found[0].items():
        assert_same(found[1][name], gradient, f"with checkpointing, the gradient of {name}", EXACT)


def gradients_of(block: Component, given: Example, *, again: bool = False) -> dict[str, Tensor]:
    """Gradients of a weighted sum of the output by every parameter, and by ``x`` if it holds vectors.

    Args:
        block: the block to run.
        given: its inputs.
        again: use activation checkpointing, which computes the forward again in the backward.
    """
    block.zero_grad(set_to_none=True)
    given = floating(given)
    # the module goes through an argument, so that the gradient reaches it even where no input needs one
    y = cast("Any", checkpoint)(run, block, given, use_reentrant=False) if again else run(block, given)
    backward(y)
    learned = reached_by_outputs(block)
    unused = [name for name, parameter in learned.items() if parameter.grad is None]
    assert not unused, f"not used in the forward: {', '.join(unused)}"
    found = {name: parameter.grad.clone() for name, parameter in block.named_parameters() if parameter.grad is not None}
    return found if given.x.grad is None else {"x": given.x.grad, **found}


def reached_by_outputs(block: Component) -> dict[str, nn.Parameter]:
    """The parameters that have a gradient of the block's outputs, by name: not those of key selectors."""
    apart = {id(one) for part in block.modules() if isinstance(part, KeySelector) for one in part.parameters()}
    return {name: one for name, one in block.named_parameters() if one.requires_grad and id(one) not in apart}


def floating(given: Example) -> Example:
    """A copy whose ``x`` requires its gradient, if it holds vectors."""
    x = given.x.detach().clone().requires_grad_(given.x.is_floating_point())
    return replace(given, x=x)


def backward(y: Tensor) -> None:
    """Backpropagate from a sum of all values with different weights, if ``y`` has a gradient."""
    if y.requires_grad:
        weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
        cast("Any", (y * weights).sum()).backward()


RATE, SIGMAS = 0.3, 6.0


def check_dropout_has_its_rate(case: BlockCase) -> None:
    """Each ``dropout`` in the recipe drops that share of values, and different values in each layer and step.

    Values dropped by torch's dropout are counted; of fused attention only the rate passed to it is compared.
    """
    drops: list[_Drop] = []
    for path in (path for path in dropout_paths(case) if path[-1] == "dropout"):
        changed, key = _with_only(case, path), ".".join(map(str, path))
        block = changed.build_perturbed(torch.float32).train()
        reset_rng()
        with _RecordDropout() as record:
            for _ in range(2):
                run(block, example(changed, batch=24, length=12, dtype=torch.float32))
        for drop in record.drops:
            assert drop.rate in (0.0, RATE), f"{key}={RATE}, but the rate is {drop.rate}"
        _assert_counted([drop for drop in record.drops if drop.rate and drop.kept is not None], key)
        drops += [drop for drop in record.drops if drop.rate]
    if not drops:
        raise NotApplicable("the block has no dropout")


@dataclass
class _Drop:
    """One call of dropout: its rate, and which of the values that are not zero were kept (None: unknown)."""

    rate: float
    kept: Tensor | None = None


def _with_only(case: BlockCase, wanted: tuple[str | int, ...]) -> BlockCase:
    for path in dropout_paths(case):
        case = case.put(path, RATE if path == wanted else 0.0)
    return case


def _assert_counted(drops: Sequence[_Drop], key: str) -> None:
    masks = [drop.kept for drop in drops if drop.kept is not None]
    for mask in masks:
        share, sigma = 1 - float(mask.double().mean()), (RATE * (1 - RATE) / max(mask.numel(), 1)) ** 0.5
        assert abs(share - RATE) < SIGMAS * sigma, f"{key}={RATE}, but {share:.3f} of {mask.numel()} values are dropped"
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            same = mask.shape == other.shape and torch.equal(mask, other)
            assert not same, f"{key}: two calls drop the same values"


class _RecordDropout(TorchFunctionMode):
    """Records every call of dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.drops: list[_Drop] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        options: dict[str, Any] = kwargs or {}
        y = func(*args, **options)
        if func is F.dropout and _argument(args, options, 2, "training", True):
            x, rate = args[0], float(_argument(args, options, 1, "p", 0.5))
            self.drops.append(_Drop(rate, y[x != 0] != 0))
        elif func is F.scaled_dot_product_attention:
            self.drops.append(_Drop(float(_argument(args, options, 4, "dropout_p", 0.0))))
        return y


def _argument(args: Sequence[Any], options: dict[str, Any], place: int, name: str, default: Any) -> Any:
    return args[place] if len(args) > place else options.get(name, default)


STEPS, LEFT = 300, 0.1  # of the first loss
ROUNDING = 1e-12  # of gradients in float64: what is left of one that is zero


def check_bfloat16_gradients_match_float64(case: BlockCase) -> None:
    """With autocast and with bfloat16 parameters, gradients are finite and close to those of float64.

    The tolerance grows with the error that rounding the parameters, and the outputs of all modules, too, causes.
    """
    given, single = example(case), example(case, dtype=torch.float32)
    exact = _flat(gradients_of(case.build_perturbed(), given))
    if not bool((exact.abs() > ROUNDING).any()):  # such as those of a router that chooses one expert with weight 1
        raise NotApplicable("nothing has a gradient")
    block = case.build_perturbed().to(torch.bfloat16).to(torch.float64)
    estimates = [_distance(_flat(gradients_of(block, given)), exact)]
    for module in block.modules():
        module.register_forward_hook(_round)
    estimates.append(_distance(_flat(gradients_of(block, given)), exact))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = _flat(gradients_of(case.build_perturbed(torch.float32), single))
    half = _flat(gradients_of(case.build_perturbed(torch.bfloat16), example(case, dtype=torch.bfloat16)))
    allowed = 0.15 + 4 * max(estimates)
    for how, found in (("with autocast", mixed), ("in bfloat16", half)):
        assert bool(torch.isfinite(found).all()), f"{how}, a gradient is not finite"
        error = _distance(found, exact)
        assert error <= allowed, f"{how}, gradients are off by {error:.2g} of their norm; allowed: {allowed:.2g}"


def check_learns_one_batch(case: BlockCase) -> None:
    """From its initial values, a model overfits one batch of random tokens: the loss falls by 90 %."""
    model = case.construct().train()
    assert isinstance(model, Model)
    model.initialise(0)
    given = example(case, batch=4, length=6, dtype=torch.float32)
    answers = torch.randint(VOCABULARY, given.x.shape, generator=torch.Generator().manual_seed(1))
    optimizer, first, loss = torch.optim.Adam(_learned(model), lr=3e-3), 0.0, 0.0
    for step in range(STEPS):
        loss = _step(model, run(model, given), answers, optimizer)
        first = first or loss
        assert loss == loss, f"the loss of step {step} is NaN"
        if loss <= LEFT * first:
            return
    raise AssertionError(f"in {STEPS} steps on one batch the loss fell only from {first:.3f} to {loss:.3f}")


def _step(model: Model, logits: Tensor, answers: Tensor, optimizer: torch.optim.Optimizer) -> float:
    loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
    optimizer.zero_grad()
    cast("Any", loss + model.auxiliary_loss()).backward()
    cast("Any", optimizer).step()
    model.update()
    return float(loss.detach())


def _learned(block: Component) -> list[torch.nn.Parameter]:
    return [parameter for parameter in block.parameters() if parameter.requires_grad]


def _round(_module: nn.Module, _inputs: Any, y: Any) -> Any:
    """A hook: the output rounded to bfloat16, with the gradient of the exact one."""
    rounds = isinstance(y, Tensor) and y.is_floating_point()
    return y + (y.to(torch.bfloat16).to(y.dtype) - y).detach() if rounds else y


def _flat(gradients: dict[str, Tensor]) -> Tensor:
    found = [gradient.double().flatten() for gradient in gradients.values()]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().sum().sqrt() / other.square().sum().sqrt().clamp(min=1e-9))


def check_dropout_acts_only_in_training(case: BlockCase) -> None:
    """Each dropout or stochastic depth in the recipe acts in training, differently each time, and not in evaluation."""
    given, tested = example(case), 0
    for path in dropout_paths(case):
        plain, dropping = case.put(path, 0.0).build_perturbed(), case.put(path, 0.5).build_perturbed()
        if certainly_equal(plain, dropping):
            continue  # a parameter of a block that is not built
        tested += 1
        key = ".".join(map(str, path))
        assert_same(run(dropping, given), run(plain, given), f"in evaluation, {key}=0.5", EXACT)
        dropping.train()
        reset_rng()
        found = [run(dropping, given) for _ in range(8)]
        assert any(not torch.equal(y, run(plain, given)) for y in found), f"in training, {key}=0.5 changes nothing"
        assert any(not torch.equal(y, found[0]) for y in found), f"{key}=0.5 drops the same values each time"
    if not tested:
        raise NotApplicable("the block has no dropout")


def check_training_equals_evaluation_without_dropout(case: BlockCase) -> None:
    """Without dropout and sampling, training and evaluation mode compute the same."""
    for path in dropout_paths(case):
        case = case.put(path, 0.0)
    for path in case.keys("sampling"):
        case = case.put(path, False)
    block, given = case.build_perturbed(), example(case)
    expected = run(block, given)
    assert_same(run(block.train(), given), expected, "in training mode", EXACT)
