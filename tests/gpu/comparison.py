"""Outputs and gradients of a block on a GPU, against those on the CPU."""

import copy
import os
from dataclasses import fields

import torch
from torch import Tensor, nn

from blockformer.conformance.checks.training import gradients_of
from blockformer.conformance.example import Example, run
from blocks.base import Component

GPU = torch.device(os.environ.get("GPU_TESTS_ON", "cuda"))
Values = dict[str, Tensor]
BASE, FACTOR, LEAST = 2e-5, 20.0, 0.05


def moved(given: Example, device: torch.device = GPU, dtype: torch.dtype | None = None) -> Example:
    """The example on a device, its vectors in another type."""

    def there(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return Example(**{field.name: there(getattr(given, field.name)) for field in fields(Example)})


def values_of(block: Component, given: Example) -> Values:
    """The output and all gradients, on the CPU."""
    with torch.no_grad():
        found = {"output": run(block, given)}
    found |= {f"gradient of {name}": value for name, value in gradients_of(block, given).items()}
    return {name: value.detach().cpu() for name, value in found.items()}


def assert_near(found: Values, usual: Values, exact: Values, base: float = BASE, factor: float = FACTOR) -> None:
    """Assert that values are as near to the exact ones as rounding on the CPU is.

    The largest difference may be ``factor`` times that on the CPU, plus ``base`` times the largest value of the tensor,
    or a twentieth of the largest gradient where a gradient consists of rounding.
    """
    assert found.keys() == exact.keys()
    largest = max((_largest(value) for name, value in exact.items() if name != "output"), default=0.0)
    for name, value in found.items():
        if not value.numel():
            continue
        assert bool(value.isfinite().all()), f"{name}: not all values are finite"
        least = 0.0 if name == "output" else LEAST * largest
        expected = exact[name].double()
        rounding = _largest(usual[name].double() - expected)
        allowed = factor * rounding + base * max(_largest(expected), least, 1e-6)
        difference = _largest(value.double() - expected)
        assert difference <= allowed, f"{name}: differs by {difference:.2g}; allowed: {allowed:.2g}"


def compare(block: nn.Module, given: Example) -> None:
    """Assert that a block in float64 on the CPU has the same output and gradients in float32 on a GPU."""
    assert isinstance(block, Component)
    exact = values_of(block, given)
    single = copy.deepcopy(block).float()
    usual = values_of(single, moved(given, torch.device("cpu"), torch.float32))
    found = values_of(single.to(GPU), moved(given, dtype=torch.float32))
    assert_near(found, usual, exact)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0
