"""Every implementation of attention equals the eager one on a GPU, forwards and backwards, with every kind of mask."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from blocks.attention.backends import BACKENDS, IMPLEMENTATIONS
from blocks.attention.eager import eager
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility
from blocks.base import DistanceBias
from tests.gpu.comparison import GPU, Values, assert_near

pytestmark = pytest.mark.gpu
BATCH, HEADS = 2, 4
LENGTHS = {"self": (200, 200), "short": (40, 40), "cross": (72, 130)}
SHAPES = [(HEADS, (16, 16)), (2, (64, 64)), (1, (8, 8)), (HEADS, (48, 32))]
"""Key heads; widths of queries and keys, and of values."""
SCORES = ("plain", "bias", "learned bias", "sinks", "softcap")


def masks(length: int, device: torch.device) -> dict[str, Visibility]:
    """Of self-attention over ``length`` tokens."""
    index = torch.arange(length, device=device)
    causal = partial(Visibility, length, length, device, causal=True)
    return {
        "all": Visibility(length, length, device),
        "causal": causal(),
        "window": causal(window=50),
        "documents": causal(documents=torch.stack([index // 61, index // 150])),
        "bidirectional documents": Visibility(length, length, device, documents=torch.stack([index // 61, index // 9])),
        "documents of the batch": causal(documents=(index // 61)[None]),
        "documents in pieces": causal(documents=torch.stack([index // 61 % 2, index // 150])),
        "bidirectional window": Visibility(length, length, device, window=50),
        "padding": causal(padding=torch.stack([index >= 37, index < 0])),  # nothing of the second row is visible
        "prefix": causal(prefix=torch.stack([index < 140, index < 3])),
        "window in documents": causal(window=50, documents=torch.stack([index // 61, index // 150])),
    }


def memory_masks(queries: int, keys: int, device: torch.device) -> dict[str, Visibility]:
    index = torch.arange(keys, device=device)
    padded = Visibility(queries, keys, device, padding=torch.stack([index < 90, index >= 0]))
    return {"memory": Visibility(queries, keys, device), "padded memory": padded}


CPU = torch.device("cpu")
CASES = [("self", mask) for mask in masks(4, CPU)] + [("short", "causal"), ("short", "documents")]
CASES += [("cross", mask) for mask in memory_masks(4, 4, CPU)]


def visible_of(place: str, mask: str, device: torch.device) -> Visibility:
    queries, keys = LENGTHS[place]
    return (memory_masks(queries, keys, device) if place == "cross" else masks(queries, device))[mask]


class Inputs:
    """Random inputs of one call of attention, in float64 on the CPU."""

    def __init__(self, lengths: tuple[int, int], groups: int, widths: tuple[int, int], score: str) -> None:
        draw = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64)

        queries, keys = lengths
        self.q = normal(BATCH, HEADS, queries, widths[0])
        self.k, self.v = (normal(BATCH, groups, keys, width) for width in widths)
        self.bias = normal(1, HEADS, queries + keys - 1) if "bias" in score else None
        self.sinks = normal(HEADS) if score == "sinks" else None
        self.softcap = 2.0 if score == "softcap" else None
        self.learned = score == "learned bias"
        self.slope = normal(BATCH, HEADS, queries, widths[1])
        self.scale = widths[0] ** -0.5

    def values(self, backend: str, case: tuple[str, str], device: torch.device, dtype: torch.dtype) -> Values:
        """Output and gradients."""
        wide = torch.promote_types(dtype, torch.float32)  # as a bias and sinks are in a model
        given = {name: getattr(self, name).detach().to(device, dtype).requires_grad_() for name in ("q", "k", "v")}
        bias = None if self.bias is None else self.bias.detach().to(device, wide).requires_grad_(self.learned)
        sinks = None if self.sinks is None else self.sinks.detach().to(device, wide).requires_grad_()
        added = None if bias is None else DistanceBias(bias)
        scoring = Scoring(self.scale, softcap=self.softcap, bias=added, sinks=sinks)
        y = IMPLEMENTATIONS[backend](given["q"], given["k"], given["v"], visible_of(*case, device), scoring)
        (y * self.slope.to(device, dtype)).sum().backward()
        found = {"output": y, **{f"gradient of {name}": one.grad for name, one in given.items()}}
        if self.learned and bias is not None:
            found["gradient of the bias"] = bias.grad
        if sinks is not None:
            found["gradient of the sinks"] = sinks.grad
        assert all(value is not None and value.device.type == device.type for value in found.values())
        return {name: value.detach().cpu() for name, value in found.items() if value is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("place", "mask"), CASES)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_equals_eager(backend: str, score: str, place: str, mask: str, dtype: torch.dtype) -> None:
    if backend == "sdpa" and score == "softcap":
        pytest.skip("sdpa has no softcap; the mixers refuse it")
    if backend == "flex" and GPU.type == "cpu":
        pytest.skip("flex has no gradients on a CPU")
    queries, keys = LENGTHS[place]
    half = (SCORES.index(score) + CASES.index((place, mask))) % 2
    wrong: list[str] = []
    torch.compiler.reset()
    for groups, widths in SHAPES[half::2] if backend == "flex" else SHAPES:  # flex compiles for each
        inputs = Inputs((queries, keys), groups, widths, score)
        exact = inputs.values("eager", (place, mask), CPU, torch.float64)
        usual = inputs.values("eager", (place, mask), GPU, dtype)
        try:
            found = inputs.values(backend, (place, mask), GPU, dtype)
            assert_near(found, usual, exact, base=2e-5 if dtype == torch.float32 else 0.02, factor=8.0)
        except (AssertionError, RuntimeError, NotImplementedError) as error:
            wrong.append(f"{groups} groups of widths {widths}: {str(error)[:300]}")
    assert not wrong, "\n".join(wrong)


def test_flex_is_compiled_at_most_twice_for_all_lengths() -> None:
    if GPU.type == "cpu":
        pytest.skip("flex is compiled on a GPU only")
    torch.compiler.reset()
    counters.clear()
    for length in (130, 200, 250, 333, 400):
        q, k, v = torch.randn(3, BATCH, HEADS, length, 16, device=GPU)
        visible = masks(length, GPU)["documents"]
        expected = eager(q, k, v, visible, Scoring(0.25))
        torch.testing.assert_close(IMPLEMENTATIONS["flex"](q, k, v, visible, Scoring(0.25)), expected)
    assert counters["stats"]["unique_graphs"] <= 2
