"""Attention against second implementations, and what its options come down to."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.activations.pointwise import SiLU, Softplus
from blocks.attention.cross import CrossAttention
from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Cache, Context, Mixer, Site
from blocks.init.keyed import initialise
from blocks.init.schemes import Xavier
from blocks.norms.rms import RMSNorm
from blocks.positions.alibi import ALiBi
from blocks.positions.rotary import RotaryPositions
from blocks.recurrent.linear import LinearAttention
from registry import UnfitError

DIM, HEADS, TIME = 32, 4, 6
close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6)


def attention(*, causal: bool = True, **params: Any) -> MultiHeadAttention:
    block = MultiHeadAttention(Site(dim=DIM, causal=causal), **{"heads": HEADS, **params})
    initialise(block, Xavier(), seed=0)
    return block.double().eval()


def cross_attention(memory_dim: int = 24, **params: Any) -> CrossAttention:
    block = CrossAttention(Site(dim=DIM, memory_dim=memory_dim), **{"heads": HEADS, **params})
    initialise(block, Xavier(), seed=0)
    return block.double().eval()


def vectors(batch: int = 2, time: int = TIME, width: int = DIM, seed: int = 0) -> Tensor:
    return torch.randn(batch, time, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(block: Mixer, x: Tensor, **context: Any) -> Tensor:
    return block(x, Context.of(x, **context))


def written_out(block: MultiHeadAttention, x: Tensor, mask: Tensor) -> Tensor:
    """The formula of the paper, one head after the other, as a loop would compute it by hand."""
    q, k, v = (x @ getattr(block, name).weight.T for name in "qkv")
    heads: list[Tensor] = []
    for head in range(block.heads):
        kv = head // (block.heads // block.kv_heads)
        own, shared = (slice(i * block.head_dim, (i + 1) * block.head_dim) for i in (head, kv))
        scores = torch.einsum("btk,bsk->bts", q[..., own], k[..., shared]) / block.head_dim**0.5
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        heads.append(torch.einsum("bts,bsk->btk", weights, v[..., shared]))
    return torch.cat(heads, dim=-1) @ block.out.weight.T


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_equals_the_formula_written_out(kv_heads: int, window: int | None, backend: str) -> None:
    block, x = attention(kv_heads=kv_heads, window=window, backend=backend), vectors()
    mask = torch.ones(TIME, TIME, dtype=torch.bool).tril()
    close(run(block, x), written_out(block, x, mask if window is None else mask.triu(1 - window)))


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_torch_multihead_attention(bias: bool, cross: bool) -> None:
    block = cross_attention(bias=bias) if cross else attention(causal=False, bias=bias)
    x, memory = vectors(), vectors(time=5, width=24, seed=1) if cross else vectors()
    width = memory.shape[2]
    theirs = nn.MultiheadAttention(DIM, HEADS, bias=bias, kdim=width, vdim=width, batch_first=True).double()
    with torch.no_grad():
        if cross:
            theirs.q_proj_weight.copy_(block.q.weight), theirs.k_proj_weight.copy_(block.k.weight)
            theirs.v_proj_weight.copy_(block.v.weight)
        else:
            theirs.in_proj_weight.copy_(torch.cat([block.q.weight, block.k.weight, block.v.weight]))
        theirs.out_proj.weight.copy_(block.out.weight)
        if bias:
            for name in ("q", "k", "v", "out"):
                nn.init.normal_(getattr(block, name).bias)
            theirs.in_proj_bias.copy_(torch.cat([block.q.bias, block.k.bias, block.v.bias]))
            theirs.out_proj.bias.copy_(block.out.bias)
    padding = torch.ones(2, memory.shape[1], dtype=torch.bool)
    padding[1, -2:] = False
    context = Context.of(x, attention_mask=None if cross else padding)
    context.memory, context.memory_mask = memory, padding
    expected, _ = theirs(x, memory, memory, key_padding_mask=~padding)
    close(block(x, context), expected)


def test_cross_attention_equals_attention_where_the_memory_is_the_input() -> None:
    options = {"kv_heads": 2, "softcap": 2.0, "qk_norm": RMSNorm, "qk_norm_over": "heads", "clip": 0.5, "gate": SiLU}
    cross, own, x = cross_attention(DIM, **options), attention(causal=False, **options), vectors()
    own.load_state_dict(cross.state_dict())
    context = Context.of(x)
    context.memory = x
    close(cross(x, context), run(own, x))


def test_cross_attention_projects_the_memory_once_while_decoding() -> None:
    block, x, memory = cross_attention(), vectors(time=1), vectors(time=5, width=24, seed=1)
    context = Context.of(x, cache=Cache(1))
    context.memory = memory
    first = block(x, context)
    context.memory = None
    close(block(x, context), first)


def test_cross_attention_refuses_a_memory_of_another_batch_size() -> None:
    context = Context.of(vectors())
    with pytest.raises(ValueError, match=r"context\.memory is None"):
        cross_attention()(vectors(), context)
    context.memory = vectors(batch=3, width=24)
    with pytest.raises(ValueError, match=r"3 rows.*2"):
        cross_attention()(vectors(), context)


def test_equals_scaled_dot_product_attention_with_documents_and_padding() -> None:
    block, x = attention(backend="eager"), vectors()
    documents = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 2]])
    visible = (documents[:, :, None] == documents[:, None, :]) & torch.ones(TIME, TIME, dtype=torch.bool).tril()
    q, k, v = (getattr(block, name)(x) for name in "qkv")
    expected = F.scaled_dot_product_attention(q, k, v, visible[:, None]).transpose(1, 2).flatten(2)
    close(run(block, x, documents=documents), block.out(expected))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_window_shows_just_what_it_says(window: int, causal: bool) -> None:
    block, x = attention(causal=causal, window=window), vectors(batch=1).requires_grad_()
    y = run(block, x)
    for time in range(TIME):
        (slope,) = torch.autograd.grad(y[0, time].sum(), x, retain_graph=True)
        seen = slope[0].ne(0).any(-1).nonzero().flatten().tolist()
        assert seen == [s for s in range(TIME) if abs(time - s) < window and (s <= time or not causal)]


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_who_may_look_nowhere_gets_zeros(backend: str) -> None:
    block, x = attention(backend=backend), vectors()
    mask = torch.tensor([[True] * TIME, [False] * TIME])
    assert torch.equal(run(block, x, attention_mask=mask)[1], torch.zeros(TIME, DIM, dtype=torch.float64))


def same(one: MultiHeadAttention, other: MultiHeadAttention, **context: Any) -> None:
    other.load_state_dict(one.state_dict())
    close(run(one, vectors(), **context), run(other, vectors(), **context))


def test_grouped_queries_with_all_heads_are_multi_head_attention() -> None:
    same(attention(), attention(kv_heads=HEADS))


def test_grouped_queries_are_multi_head_attention_with_repeated_heads() -> None:
    few, many = attention(kv_heads=2), attention()
    state = few.state_dict()
    for name in ("k.weight", "v.weight"):
        heads = state[name].view(2, few.head_dim, DIM)
        state[name] = heads.repeat_interleave(2, dim=0).flatten(0, 1)
    many.load_state_dict(state)
    close(run(few, vectors()), run(many, vectors()))


@pytest.mark.parametrize("params", [{"window": TIME}, {"window": 99}, {"scale": 8**-0.5}, {"head_dim": 8}])
def test_an_option_at_its_neutral_value_changes_nothing(params: dict[str, Any]) -> None:
    same(attention(), attention(**params))


def test_a_high_softcap_changes_nothing_and_a_low_one_levels_the_weights() -> None:
    plain, high, low = attention(), attention(softcap=1e6), attention(softcap=1e-9)
    same(plain, high)
    low.load_state_dict(plain.state_dict())
    values = low.v(vectors()).transpose(1, 2).flatten(2)
    means = values.cumsum(1) / torch.arange(1, TIME + 1)[None, :, None]
    close(run(low, vectors()), low.out(means))


def test_sinks_of_no_weight_change_nothing_and_heavy_ones_take_all() -> None:
    sunk = attention(sinks=True)
    with torch.no_grad():
        assert sunk.sinks is not None
        sunk.sinks.fill_(-1e9)
    plain = attention()
    plain.load_state_dict({name: value for name, value in sunk.state_dict().items() if name != "sinks"})
    close(run(sunk, vectors()), run(plain, vectors()))
    with torch.no_grad():
        sunk.sinks.fill_(1e9)
    close(run(sunk, vectors()), torch.zeros(2, TIME, DIM, dtype=torch.float64))


@pytest.mark.parametrize("over", ["head", "heads", "projection"])
def test_outputs_are_normed_and_then_gated(over: str) -> None:
    gated, plain, x = attention(gate=SiLU, out_norm=RMSNorm, out_norm_over=over), attention(), vectors()
    plain.load_state_dict({name: gated.state_dict()[name] for name in plain.state_dict()})
    plain.out = nn.Identity()
    heads = run(plain, x).unflatten(2, (HEADS, -1))
    assert gated.out_norm is not None
    normed = gated.out_norm(heads.flatten(2) if over == "projection" else heads).view_as(x)
    close(run(gated, x), gated.out(normed * F.silu(x @ gated.gate.weight.T)))


@pytest.mark.parametrize("make", [attention, partial(cross_attention, DIM)])
def test_a_gate_over_heads_is_a_gate_over_channels_with_equal_rows(make: Any) -> None:
    few, many, x = make(gate=Softplus, gate_over="head"), make(gate=Softplus), vectors()
    state = few.state_dict()
    assert state["gate.weight"].shape == (HEADS, DIM)
    many.load_state_dict(state | {"gate.weight": state["gate.weight"].repeat_interleave(few.head_dim, dim=0)})
    contexts = [Context.of(x), Context.of(x)]
    for context in contexts:
        context.memory = x
    close(few(x, contexts[0]), many(x, contexts[1]))


def test_values_have_a_width_a_norm_and_a_factor_of_their_own() -> None:
    block, x = attention(value_dim=5, v_norm=RMSNorm, value_scale=0.6, kv_heads=2, qk_norm=RMSNorm), vectors()
    assert block.v is not None
    assert block.q_norm is not None
    assert block.k_norm is not None
    assert block.v_norm is not None
    q, k, v = block.q_norm(block.q(x)), block.k_norm(block.k(x)), 0.6 * block.v_norm(block.v(x))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert expected.shape == (2, HEADS, TIME, 5)
    close(run(block, x), block.out(expected.transpose(1, 2).flatten(2)))


def test_shared_keys_and_values_are_two_equal_projections() -> None:
    options = {"kv_heads": 2, "qk_norm": RMSNorm, "positions": RotaryPositions}
    shared, apart = attention(shared_kv=True, **options), attention(**options)
    state = shared.state_dict()
    apart.load_state_dict(state | {"v.weight": state["k.weight"]})
    close(run(shared, vectors()), run(apart, vectors()))


def test_queries_and_keys_of_one_narrow_projection_are_projections_of_low_rank() -> None:
    narrow, plain = attention(qk_rank=6, qk_rank_norm=RMSNorm), attention()
    assert narrow.qk_down is not None
    assert narrow.qk_rank_norm is not None
    x, y = vectors(), narrow.qk_rank_norm(narrow.qk_down(vectors()))
    q, k, v = narrow.q(y), narrow.k(y), narrow.v(x)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    close(run(narrow, x), narrow.out(expected.transpose(1, 2).flatten(2)))
    assert narrow.axes().keys() == {*plain.axes(), "qk_down.weight"}


def test_attention_can_write_another_width() -> None:
    block = MultiHeadAttention(Site(dim=32, output_dim=20), heads=4)
    assert block(torch.randn(1, 3, 32), Context.of(torch.randn(1, 3, 32))).shape == (1, 3, 20)
    with pytest.raises(UnfitError, match="another width"):
        LinearAttention(Site(dim=32, output_dim=20))


def test_shared_keys_and_values_cannot_differ() -> None:
    with pytest.raises(ValueError, match="value_dim=5 is not 8"):
        attention(shared_kv=True, value_dim=5)
    with pytest.raises(ValueError, match="leave v out"):
        attention(shared_kv=True, bias=("q", "v"))


def test_reversed_positions_are_negative_positions() -> None:
    forward, backward = (
        attention(positions=RotaryPositions),
        attention(positions=partial(RotaryPositions, reverse=True)),
    )
    y = run(backward, vectors())
    close(y, run(forward, vectors(), positions=-torch.arange(TIME)))
    assert not torch.allclose(y, run(forward, vectors()), atol=1e-3)


def test_rotary_scores_see_only_distances() -> None:
    block, x = attention(positions=RotaryPositions), vectors()
    shifted = torch.arange(7, 7 + TIME)
    torch.testing.assert_close(run(block, x), run(block, x, positions=shifted), rtol=1e-4, atol=1e-5)
    uneven = torch.tensor([0, 1, 2, 3, 4, 9])
    assert not torch.allclose(run(block, x), run(block, x, positions=uneven), atol=1e-3)


def test_alibi_is_a_slope_for_each_head() -> None:
    block, x = attention(positions=ALiBi), vectors()
    q, k, v = (getattr(block, name)(x) for name in "qkv")
    distance = torch.arange(TIME)[None, :] - torch.arange(TIME)[:, None]
    slopes = torch.tensor([2**-2, 2**-4, 2**-6, 2**-8], dtype=torch.float64)
    bias = torch.where(distance <= 0, slopes[:, None, None] * distance, -torch.inf)
    expected = F.scaled_dot_product_attention(q, k, v, bias)
    close(run(block, x), block.out(expected.transpose(1, 2).flatten(2)))


def test_without_positions_or_masks_tokens_are_a_set() -> None:
    block, x = attention(causal=False), vectors()
    order = torch.randperm(TIME, generator=torch.Generator().manual_seed(0))
    close(run(block, x[:, order]), run(block, x)[:, order])


@pytest.mark.parametrize(
    ("params", "numbers"),
    [({"heads": 5}, ("32", "5")), ({"heads": 4, "kv_heads": 3}, ("4", "3"))],
)
def test_sizes_that_do_not_fit_are_refused_with_both_numbers(params: dict[str, int], numbers: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=f"{numbers[0]}.*{numbers[1]}"):
        attention(**params)
