"""Attention with vectors of relative positions, convolved and grouped attention, against second implementations."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blockformer.conformance import BlockCase
from blocks.base import Context, Site
from blocks.feedforward.mlp import MLP
from blocks.heads.dense import DenseTransform
from blocks.positions.alibi import ALiBi

DIM, TIME = 32, 7


def perturbed(name: str, place: Any = "causal", **params: Any) -> Any:
    return BlockCase("mixer", name, params, place).build_perturbed()


def vectors(time: int = TIME) -> Tensor:
    return torch.randn(2, time, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def attended(block: Any, scores: Tensor, v: Tensor) -> Tensor:
    return block.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_disentangled_scores_have_three_terms() -> None:
    block, x = perturbed("disentangled", heads=2, max_distance=3, bias=True), vectors()
    q, k, v = block.q(x), block.k(x), block.v(x)
    pos_k, pos_q = block.pos_k(block.table.weight[None])[0], block.pos_q(block.table.weight[None])[0]  # (H, R, K)
    scores = torch.full((2, 2, TIME, TIME), -torch.inf, dtype=torch.float64)
    for i in range(TIME):
        for j in range(i + 1):
            row = min(i - j, 2) + 3
            content = (q[:, :, i] * k[:, :, j]).sum(-1)
            scores[:, :, i, j] = content + (q[:, :, i] * pos_k[:, row]).sum(-1) + (k[:, :, j] * pos_q[:, row]).sum(-1)
    torch.testing.assert_close(block(x, Context.of(x)), attended(block, scores * (3 * 16) ** -0.5, v))


def test_far_distances_share_vectors_in_buckets() -> None:
    block = perturbed("disentangled", "bidirectional", heads=2, buckets=8, max_distance=64)
    rows = block._rows(torch.arange(-70, 71))
    assert rows[70 - 4 : 70 + 5].tolist() == list(range(4, 13)), "near ones have their own"
    assert rows.diff().min() >= 0
    assert (rows[0], rows[-1]) == (0, 15)


def test_relative_scores_have_the_sinusoids_of_distances() -> None:
    block, x = perturbed("relative", heads=2), vectors()
    q, k, v = block.q(x), block.k(x), block.v(x)
    angles = torch.arange(TIME)[:, None] * 10000.0 ** (-torch.arange(0, DIM, 2) / DIM)
    r = block.r(torch.cat([angles.sin(), angles.cos()], -1)[None].double())[0]  # (H, T, K)
    scores = torch.full((2, 2, TIME, TIME), -torch.inf, dtype=torch.float64)
    for i in range(TIME):
        for j in range(i + 1):
            content = ((q[:, :, i] + block.content_bias) * k[:, :, j]).sum(-1)
            scores[:, :, i, j] = content + ((q[:, :, i] + block.position_bias) * r[:, i - j]).sum(-1)
    y = attended(block, scores / 4, v)
    torch.testing.assert_close(block(x, Context.of(x)), y, atol=1e-5, rtol=1e-5)  # the sinusoids are float32


def test_a_kernel_of_each_token_weighs_the_values_around_it() -> None:
    block, x = perturbed("span_convolution", "bidirectional", heads=2, kernel=3), vectors()
    span = block.pointwise(F.conv1d(x.transpose(1, 2), block.depthwise[:, None], padding=1, groups=DIM).transpose(1, 2))
    q = block.q(x).transpose(1, 2).flatten(2)
    kernel = block.kernel(span * q).view(2, TIME, 2, 3).softmax(-1)
    values = F.pad(block.conv_v(x), (0, 0, 1, 1)).view(2, TIME + 2, 2, 8)
    convolved = torch.stack([kernel[..., i, None] * values[:, i : i + TIME] for i in range(3)]).sum(0)
    heads = F.scaled_dot_product_attention(block.q(x), block.k(x), block.v(x)).transpose(1, 2)
    torch.testing.assert_close(block(x, Context.of(x)), block.out(torch.cat([heads, convolved], 2).flatten(2)))


def test_grouped_projections_are_block_diagonal() -> None:
    groups = {"q": 2, "k": 4, "v": 1, "out": 4}
    ours, plain, x = perturbed("attention", heads=2, groups=groups), perturbed("attention", heads=2), vectors()
    for name, count in groups.items():
        getattr(plain, name).weight.data = torch.block_diag(*getattr(ours, name).weight.detach().chunk(count))
    torch.testing.assert_close(ours(x, Context.of(x)), plain(x, Context.of(x)))
    assert ours.flops_per_token(9) < plain.flops_per_token(9)
    mlp = MLP(Site(dim=DIM), hidden=12, groups={"up": 4, "down": 2})
    assert (mlp.up.weight.shape, mlp.down.weight.shape) == ((12, 8), (DIM, 6))


def test_a_factor_scales_the_slopes_of_alibi() -> None:
    site, x = Site(dim=8, heads=4), vectors()
    one, half = ALiBi(site).bias(Context.of(x)).values, ALiBi(site, factor=0.5).bias(Context.of(x)).values
    torch.testing.assert_close(half, one * 0.5)


def test_a_dense_transform_has_several_projections() -> None:
    block, x = DenseTransform(Site(dim=DIM), 10, hidden=(6,)).double(), vectors()
    torch.testing.assert_close(block(x), torch.tanh(block.project(torch.tanh(block.before[0](x)))))
