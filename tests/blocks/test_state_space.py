"""State-space mixers, against the recurrences that their papers write down."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.base import Context, Site
from blocks.init.keyed import initialise
from blocks.init.schemes import Normal
from blocks.recurrent import scan
from blocks.recurrent.scan import linear_scan
from blocks.recurrent.selective import ELSEWHERE, selective_recurrence
from blocks.recurrent.selective_scan import SelectiveScan
from blocks.recurrent.ssd import StateSpaceDual
from blocks.recurrent.state_space_dual import state_space_dual
from registry import parse
from tests.blocks.test_recurrent import SELECTIVE, SSD, mixer, normal, run

LENGTHS = [1, 5, 64, 65, 150]
SITE = Site(dim=32)
MULTIPLIERS = (0.7, 1.2, 0.8, 1.5, 2.0)


def dual_inputs(length: int) -> tuple[Tensor, ...]:
    """q, k (B, G, T, K), v (B, H, T, V) and logs (B, H, T), of 2 groups with 3 heads each."""
    q, k, v = normal(2, 2, length, 5), normal(2, 2, length, 5, seed=1), normal(2, 6, length, 4, seed=2)
    return q, k, v, -normal(2, 6, length, seed=3).exp()


def dual_by_token(q: Tensor, k: Tensor, v: Tensor, logs: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
    q, k = q.repeat_interleave(3, dim=1), k.repeat_interleave(3, dim=1)
    memory = torch.zeros(2, 6, 5, 4, dtype=q.dtype) if memory is None else memory
    found: list[Tensor] = []
    for t in range(q.shape[2]):
        memory = memory * logs[:, :, t, None, None].exp() + k[:, :, t, :, None] * v[:, :, t, None, :]
        found.append(torch.einsum("bhk,bhkv->bhv", q[:, :, t], memory))
    return torch.stack(found, dim=2), memory


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("continued", [False, True])
def test_the_dual_form_by_chunks_is_the_recurrence_by_tokens(length: int, continued: bool) -> None:
    memory = normal(2, 6, 5, 4, seed=9) if continued else None
    inputs = dual_inputs(length)
    for ours, plain in zip(state_space_dual(*inputs, memory=memory), dual_by_token(*inputs, memory), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0.0, atol=1e-11)


def test_the_dual_form_starts_anew_with_each_document() -> None:
    inputs = dual_inputs(200)
    documents = torch.tensor([0] * 3 + [1] * 130 + [2] * 1 + [3] * 66)[None].expand(2, -1)
    y, _ = state_space_dual(*inputs, documents=documents)
    for document in range(4):
        part = documents[0] == document
        alone, _ = dual_by_token(*(tensor[:, :, part] for tensor in inputs))
        torch.testing.assert_close(y[:, :, part], alone, rtol=0.0, atol=1e-11)


def test_a_state_that_decays_at_once_is_exact_in_float32() -> None:
    q, k, v, _ = dual_inputs(70)
    fading = torch.full((2, 6, 70), -300.0, dtype=q.dtype)
    y, _ = state_space_dual(q.float(), k.float(), v.float(), fading.float())
    torch.testing.assert_close(y.double(), dual_by_token(q, k, v, fading)[0], rtol=0.0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{}, {"step_min": 0.4, "step_max": 0.9}, {"multipliers": (0.7, 1.2, 0.8, 1.5, 2.0)}]
)
@pytest.mark.parametrize("gating", ["before_norm", "after_norm"])
def test_ssd_is_what_its_docstring_says(options: dict[str, Any], gating: str) -> None:
    block = mixer({**SSD, **options, "gating": gating, "bias": True})
    x, inner = normal(2, 9, 32), 24
    gate, v, k, q, step = (
        layer(x) * factor
        for layer, factor in zip((block.gate, block.v, block.k, block.q, block.step), block.multipliers, strict=True)
    )
    padded = F.pad(torch.cat([v, k, q], dim=-1).mT, (3, 0))
    weight = torch.cat([block.convolution, block.key_convolution])
    bias = torch.cat([block.convolution_bias, block.key_convolution_bias])
    mixed = F.silu(F.conv1d(padded, weight[:, None], bias, groups=len(weight)))
    v, k, q = mixed.mT.split([inner, 10, 10], dim=-1)
    steps = F.softplus(step + block.step_bias).clamp(options.get("step_min"), options.get("step_max", 1e9))
    memory, found = torch.zeros(2, 4, 5, 6, dtype=x.dtype), list[Tensor]()
    for t in range(9):
        value, key, query = v[:, t].view(2, 4, 6), k[:, t].view(2, 2, 1, 5), q[:, t].view(2, 2, 1, 5)
        key, query = (y.expand(2, 2, 2, 5).flatten(1, 2) for y in (key, query))
        memory = memory * (-block.log_rate.exp() * steps[:, t])[..., None, None].exp()
        memory = memory + steps[:, t, :, None, None] * key[..., None] * value[:, :, None]
        found.append((memory.mT @ query[..., None])[..., 0] + block.skip[:, None] * value)
    y, gate = torch.stack(found, dim=1).flatten(2), F.silu(gate)
    y = y * gate if gating == "before_norm" else y
    y = F.rms_norm(y.view(2, 9, 2, 12), (12,), eps=1e-6) * block.norm.weight
    y = y.flatten(2) if gating == "before_norm" else y.flatten(2) * gate
    torch.testing.assert_close(run(block, x), block.out(y), rtol=0.0, atol=1e-11)


def test_heads_start_with_memories_of_1_to_1000_tokens() -> None:
    block = StateSpaceDual(SITE, heads=4)
    initialise(block, Normal(), 0)
    spans = 1 / (F.softplus(block.step_bias) * block.log_rate.exp())
    torch.testing.assert_close(spans, torch.tensor([1.0, 10.0, 100.0, 1000.0]))
    x = torch.randn(1, 5, 32)
    assert bool(block(x, Context.of(x)).isfinite().all())


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"heads": 5}, "dim=32 is not a multiple of heads=5"),
        ({"groups": 3}, "heads=8 is not a multiple of groups=3"),
        ({"norm_groups": 5}, "norm_groups=5 does not divide 64 channels"),
        ({"multipliers": (1.0, 2.0)}, "multipliers has 2 numbers; give one for each of gate, v, k, q, step"),
        ({"step_min": 2.0, "step_max": 1.0}, r"step_max=1.0 is not above step_min=2.0"),
    ],
)
def test_ssd_refuses_what_does_not_fit(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse("mixer", {"type": "ssd", **params})(SITE)


def scanned_by_token(decay: Tensor, write: Tensor, before: Tensor) -> Tensor:
    found = [before]
    for t in range(write.shape[1]):
        found.append(decay[:, t] * found[-1] + write[:, t])
    return torch.stack(found[1:], dim=1)


@pytest.mark.parametrize("wide", [0, 2**30])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 17, 70])
def test_a_scan_in_segments_is_the_recurrence_by_tokens(
    wide: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "WIDE", wide)
    decay, write = normal(2, length, 3).sigmoid(), normal(2, length, 3, seed=1)
    inputs = [one.requires_grad_() for one in (decay, write, normal(2, 3, seed=2))]
    slope = normal(2, length, 3, seed=3)
    ours, plain = linear_scan(*inputs), scanned_by_token(*inputs)
    torch.testing.assert_close(ours, plain, rtol=0.0, atol=1e-11)
    found = (torch.autograd.grad(y, inputs, slope) for y in (ours, plain))
    torch.testing.assert_close(*found, rtol=0.0, atol=1e-11)


def selective_inputs(length: int) -> list[Tensor]:
    """x, steps (B, T, D), rates (D, K), k, q (B, T, K) and a memory (B, D, K)."""
    x, steps = normal(2, length, 3), normal(2, length, 3, seed=1).exp()
    rates, k, q = normal(3, 4, seed=2).exp(), normal(2, length, 4, seed=3), normal(2, length, 4, seed=4)
    return [one.requires_grad_() for one in (x, steps, rates, k, q, normal(2, 3, 4, seed=5))]


def selective_by_token(inputs: list[Tensor], begins: Tensor | None) -> tuple[Tensor, Tensor]:
    x, steps, rates, k, q, memory = inputs
    found: list[Tensor] = []
    for t in range(x.shape[1]):
        if begins is not None:
            memory = memory * ~begins[:, t, None, None]
        memory = memory * (-steps[:, t, :, None] * rates).exp() + (steps * x)[:, t, :, None] * k[:, t, None]
        found.append((memory * q[:, t, None]).sum(dim=-1))
    return torch.stack(found, dim=1), memory


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("length", [1, ELSEWHERE, ELSEWHERE + 1, 50])
def test_the_selective_recurrence_in_blocks_is_the_one_by_tokens(length: int, apart: bool) -> None:
    inputs = selective_inputs(length)
    begins = torch.arange(length)[None].expand(2, -1) % 7 == 5 if apart else None
    ours = selective_recurrence(*inputs[:5], begins, inputs[5])
    plain = selective_by_token(inputs, begins)
    torch.testing.assert_close(ours, plain, rtol=0.0, atol=1e-11)
    slopes = normal(2, length, 3, seed=6), normal(2, 3, 4, seed=7)
    found = (torch.autograd.grad(y, inputs, slopes) for y in (ours, plain))
    torch.testing.assert_close(*found, rtol=0.0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("norm", [None, "rms"])
def test_a_selective_scan_is_what_its_docstring_says(norm: str | None) -> None:
    block, x = mixer({**SELECTIVE, "norm": norm, "bias": True}), normal(2, 9, 32)
    padded = F.pad(block.v(x).mT, (3, 0))
    v = F.silu(F.conv1d(padded, block.convolution[:, None], block.convolution_bias, groups=24)).mT
    down, k, q = block.step_down(v), block.k(v), block.q(v)
    if norm:
        down, k, q = block.step_norm(down), block.k_norm(k), block.q_norm(q)
    steps, memory = F.softplus(block.step(down) + block.step_bias), torch.zeros(2, 24, 5, dtype=x.dtype)
    y, _ = selective_by_token([v, steps, block.log_rate.exp(), k, q, memory], None)
    expected = block.out((y + block.skip * v) * F.silu(block.gate(x)))
    torch.testing.assert_close(run(block, x), expected, rtol=0.0, atol=1e-11)


def test_channels_start_with_steps_of_a_thousandth_to_a_tenth() -> None:
    block = SelectiveScan(SITE, channels=3, state_dim=4)
    initialise(block, Normal(), 0)
    torch.testing.assert_close(F.softplus(block.step_bias), torch.tensor([0.001, 0.01, 0.1]))
    torch.testing.assert_close(block.log_rate.exp(), torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3))
