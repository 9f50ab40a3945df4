"""Recurrences with exponential gates, against loops over tokens."""

import torch
from torch import Tensor

from blockformer.conformance import BlockCase
from blocks.base import Context
from blocks.recurrent.maximum import running_maximum
from blocks.recurrent.mlstm import MLSTM
from blocks.recurrent.wkv import WKV, Rows


def inputs(dim: int, length: int = 11) -> Tensor:
    return torch.randn(2, length, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_running_maximum_starts_again_in_each_document() -> None:
    x, drop = inputs(3), inputs(3).abs()
    documents = torch.tensor([[0] * 4 + [1] * 7, [0] * 11])
    m, before = running_maximum(x, drop, Rows(documents=documents), torch.full((2, 3), -1.0).double(), -50.0)
    for row in range(2):
        state = torch.full((3,), -1.0).double()
        for t in range(11):
            if row == 0 and t == 4:
                state = torch.full((3,), -50.0).double()
            torch.testing.assert_close(before[row, t], state)
            state = torch.maximum(state - drop[row, t], x[row, t])
            torch.testing.assert_close(m[row, t], state)


def test_wkv_is_its_sum_and_large_keys_do_not_overflow() -> None:
    block = BlockCase("mixer", "wkv", {"channels": 6}).build_perturbed().double().eval()
    assert isinstance(block, WKV)
    k, v = 40 * inputs(6), inputs(6)
    drop, found = block.log_decay.exp(), []
    for t in range(11):
        ages = torch.arange(t - 1, -1, -1)[:, None]
        logs = torch.cat([k[:, :t] - ages * drop, (k[:, t] + block.bonus)[:, None]], dim=1)
        found.append((logs.softmax(dim=1) * v[:, : t + 1]).sum(dim=1))
    torch.testing.assert_close(block._read(k, v, Rows(), None), torch.stack(found, dim=1))
    assert block._read(k.float() * 100, v.float(), Rows(), None).isfinite().all()


def test_mlstm_is_its_recurrence() -> None:
    block = BlockCase("mixer", "mlstm", {"heads": 2, "softcap": 5.0}).build_perturbed().double().eval()
    assert isinstance(block, MLSTM)
    assert block.site is not None
    x = inputs(block.site.dim)
    q, k, v = (block._heads(linear(x)) for linear in (block.q, block.k, block.v))
    opened = (5 * ((block.input(x) + block.input_bias) / 5).tanh()).exp()
    kept = (5 * ((block.forget(x) + block.forget_bias) / 5).tanh()).sigmoid()
    memory, sums, found = torch.zeros(2, 2, block.head_dim, block.value_dim), torch.zeros(2, 2, block.head_dim), []
    for t in range(11):
        i, f = opened[:, t, :, None], kept[:, t, :, None]
        memory = f[..., None] * memory + (i * k[:, :, t])[..., None] * v[:, :, t, None]
        sums = f * sums + i * k[:, :, t]
        query = q[:, :, t] * block.head_dim**-0.5
        divisor = (sums * query).sum(-1, keepdim=True).abs().clamp(min=1)
        found.append((query[:, :, None] @ memory)[:, :, 0] / divisor)
    y = block.norm(torch.stack(found, dim=1)) * block.gate(x).sigmoid().view(2, 11, 2, -1)
    torch.testing.assert_close(block(x, Context.of(x)), block.out(y.flatten(2)), rtol=1e-4, atol=1e-5)
