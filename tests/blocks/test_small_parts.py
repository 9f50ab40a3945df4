"""Norms, feed-forwards, embeddings, heads and initial values against second implementations."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blockformer as bf
from blockformer.conformance import BlockCase
from blocks.base import Activation, Component, Context, Embedding, Site
from blocks.embeddings.token import TokenEmbedding
from blocks.heads.tied import TiedHead
from blocks.init.keyed import generator, initialise
from blocks.init.schemes import DepthScaled, Normal, Xavier
from blocks.positions.none import NoInputPositions
from registry import entries

DIM = 12


def perturbed(slot: str, name: str, **params: Any) -> Any:
    return BlockCase(slot, name, params).build_perturbed()


def x(*shape: int) -> Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def wide() -> Tensor:
    return torch.randn(3, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def copied(ours: Component, theirs: nn.Module) -> nn.Module:
    theirs.load_state_dict(ours.state_dict())
    return theirs


def test_layer_norm_is_torch_s() -> None:
    ours = perturbed("norm", "layer", eps=1e-3)
    torch.testing.assert_close(ours(wide()), copied(ours, nn.LayerNorm(32, eps=1e-3).double())(wide()))


def test_rms_norm_is_torch_s() -> None:
    ours = perturbed("norm", "rms", eps=1e-3)
    torch.testing.assert_close(ours(wide()), copied(ours, nn.RMSNorm(32, eps=1e-3).double())(wide()))


def test_a_scale_norm_without_a_weight_gives_unit_length() -> None:
    block, x = perturbed("norm", "scale", weight=False), wide()
    assert not list(block.parameters())
    torch.testing.assert_close(block(x), torch.nn.functional.normalize(x, dim=-1))


def test_an_affine_norm_does_not_normalise() -> None:
    block = perturbed("norm", "affine")
    torch.testing.assert_close(block(wide()), wide() * block.weight + block.bias)
    assert not BlockCase("norm", "affine", {"bias": False}).construct().state_dict().keys() - {"weight"}


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_a_norm_with_an_offset_starts_as_one_without(name: str) -> None:
    plain, shifted = (BlockCase("norm", name, {"offset": offset}).construct() for offset in (0.0, 1.0))
    torch.testing.assert_close(plain(wide().float()), shifted(wide().float()))
    assert not shifted.weight.any()


FORMULAS = {
    "relu": lambda x: x.clamp(min=0),
    "relu2": lambda x: x.clamp(min=0) ** 2,
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)),
    "softplus": lambda x: torch.log1p(torch.exp(x)),
    "identity": lambda x: x,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_an_activation_is_its_formula(name: str) -> None:
    block: Activation = perturbed("activation", name)
    torch.testing.assert_close(block(wide()), FORMULAS[name](wide()))


def test_a_plain_feedforward_is_two_products_with_a_non_linearity_between() -> None:
    block = perturbed("feedforward", "mlp", activation="relu")
    expected = (wide() @ block.up.weight.T + block.up.bias).clamp(min=0) @ block.down.weight.T + block.down.bias
    torch.testing.assert_close(block(wide()), expected)
    assert block.up.out_features == 4 * 32


def test_a_gated_feedforward_multiplies_its_gate() -> None:
    block = perturbed("feedforward", "glu", activation="sigmoid")
    expected = (torch.sigmoid(wide() @ block.gate.weight.T) * (wide() @ block.up.weight.T)) @ block.down.weight.T
    torch.testing.assert_close(block(wide()), expected)


def test_a_gated_feedforward_cuts_off_a_share_of_its_gates() -> None:
    block = perturbed("feedforward", "glu", hidden=2048, activation="relu", gate_sparsity=0.9)
    seen: list[Tensor] = []
    handle = block.down.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    block(wide())
    handle.remove()
    gate = block.gate(wide())
    quantile = 2**0.5 * torch.erfinv(torch.tensor(0.8, dtype=torch.float64))
    cut = gate - gate.mean(-1, keepdim=True) - quantile * gate.var(-1, correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(seen[0], cut.clamp(min=0) * block.up(wide()))
    assert float((seen[0] == 0).double().mean()) == pytest.approx(0.9, abs=0.02)


def test_hidden_channels_are_normed_before_the_last_projection() -> None:
    norm = {"type": "rms", "eps": 0.1}
    gated, plain = (perturbed("feedforward", name, inner_norm=norm) for name in ("glu", "mlp"))
    hidden = torch.nn.functional.silu(gated.gate(wide())) * gated.up(wide())
    torch.testing.assert_close(gated(wide()), gated.down(gated.inner_norm(hidden)))
    torch.testing.assert_close(plain(wide()), plain.down(plain.inner_norm(plain.up(wide()).relu())))


def test_a_gated_feedforward_costs_what_a_plain_one_costs() -> None:
    gated, plain = (
        sum(p.numel() for p in BlockCase("feedforward", name, params).spec(Site(dim=384)).parameters())
        for name, params in (("glu", {}), ("mlp", {"bias": False}))
    )
    assert gated == plain


def embedded(block: Embedding, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
    return block(tokens, Context.of(tokens), segments)


def test_an_embedding_is_the_scaled_row_and_what_is_added() -> None:
    block = perturbed("embedding", "token", scale="sqrt_dim", positions="learned", segments=3)
    tokens, segments = torch.tensor([[5, 2, 5]]), torch.tensor([[0, 2, 1]])
    expected = block.table[tokens] * 32**0.5 + block.positions.table.weight[:3] + block.segments.weight[segments]
    torch.testing.assert_close(embedded(block, tokens, segments), expected)
    torch.testing.assert_close(embedded(block, tokens), embedded(block, tokens, torch.zeros_like(segments)))


def test_features_are_added_or_joined_and_projected() -> None:
    options = {"features": {"shape": 7, "task": 3}, "feature_widths": {"shape": 5}, "positions": "none"}
    block = perturbed("embedding", "token", **options)
    tokens, shape, task = torch.tensor([[5, 2, 5]]), torch.tensor([[6, 0, 1]]), torch.tensor([[2, 1, 0]])
    given = {"shape": shape, "task": task}
    y = block(tokens, replace(Context.of(tokens), features=given))
    joined = torch.cat([block.table[tokens], block.features["shape"].weight[shape]], dim=-1)
    torch.testing.assert_close(y, block.project(joined) + block.features["task"].weight[task])
    zeros = {name: torch.zeros_like(ids) for name, ids in given.items()}
    torch.testing.assert_close(embedded(block, tokens), block(tokens, replace(Context.of(tokens), features=zeros)))


def test_neighbors_are_joined_from_the_last_to_the_first() -> None:
    site = Site(dim=32, causal=False)
    block = TokenEmbedding(site, 11, None, neighbors=1, positions=NoInputPositions, width=8)
    tokens = torch.tensor([[5, 2, 7, 3]])
    x = F.pad(block.table[tokens], (0, 0, 1, 1))
    torch.testing.assert_close(embedded(block, tokens), block.project(torch.cat([x[:, 2:], x[:, 1:-1], x[:, :-2]], -1)))
    apart = replace(Context.of(tokens), documents=torch.tensor([[0, 0, 1, 1]]))
    pairs = torch.cat([embedded(block, tokens[:, :2]), embedded(block, tokens[:, 2:])], dim=1)
    torch.testing.assert_close(block(tokens, apart), pairs)


def test_neighbors_that_are_padding_are_zero_or_read() -> None:
    site, tokens = Site(dim=32, causal=False), torch.tensor([[5, 2, 7, 0]])
    options = {"neighbors": 1, "positions": NoInputPositions, "width": 8}
    block = TokenEmbedding(site, 11, None, **options)
    reading = TokenEmbedding(site, 11, None, **options, neighbor_padding="read")
    reading.load_state_dict(block.state_dict())
    padded = replace(Context.of(tokens), attention_mask=tokens != 0)
    torch.testing.assert_close(block(tokens, padded)[:, :3], embedded(block, tokens[:, :3]))
    torch.testing.assert_close(reading(tokens, padded), embedded(block, tokens))
    assert not torch.allclose(reading(tokens, padded)[:, 2], block(tokens, padded)[:, 2])


def test_a_tied_head_joins_columns_to_a_narrow_table() -> None:
    head, table = TiedHead(Site(dim=DIM), 11, 8, extend=True).double(), torch.randn(11, 8, dtype=torch.float64)
    assert head.columns is not None
    expected = x(3)[:, :8] @ table.T + x(3)[:, 8:] @ head.columns.weight.T
    torch.testing.assert_close(head(x(3), table), expected)
    with pytest.raises(ValueError, match="narrower than dim=12, but its width=12"):
        TiedHead(Site(dim=DIM), 11, DIM, extend=True)


def test_a_norm_first_leaves_the_positions_as_they_are() -> None:
    block = perturbed("embedding", "token", positions="learned", norm="layer", norm_first=True)
    tokens = torch.tensor([[5, 2, 5]])
    expected = block.norm(block.table[tokens]) + block.positions.table.weight[:3]
    torch.testing.assert_close(embedded(block, tokens), expected)


def test_features_that_no_block_reads_are_refused() -> None:
    model = bf.build("tiny_encoder")
    with pytest.raises(ValueError, match=r"no block of the model reads the feature 'task'"):
        model(torch.tensor([[1, 2]]), features={"task": torch.tensor([[0, 0]])})


def test_segments_that_an_embedding_has_not_are_refused() -> None:
    with pytest.raises(ValueError, match="segments=0"):
        embedded(perturbed("embedding", "token"), torch.tensor([[1]]), torch.tensor([[1]]))


def test_a_narrow_table_is_projected_up() -> None:
    block = perturbed("embedding", "token", width=6, positions="none")
    assert block.table.shape[1] == 6
    tokens = torch.tensor([[1, 2]])
    torch.testing.assert_close(embedded(block, tokens), block.project(block.table[tokens]))


def test_a_tied_head_reads_the_table_backwards() -> None:
    block, table = perturbed("head", "tied", bias=True), torch.randn(41, 32, dtype=torch.float64)
    torch.testing.assert_close(block(wide(), table), torch.einsum("td,vd->tv", wide(), table) + block.bias)


def test_one_table_serves_source_target_and_head() -> None:
    model = bf.build("tiny_encoder_decoder")
    tables = [name for name, p in model.named_parameters() if tuple(p.shape) == (260, 32)]
    assert tables == ["embedding.tokens.weight"]
    apart = bf.build("tiny_encoder_decoder", {"share_tokens": False})
    assert apart.size == model.size + 260 * 32


def drawn(init: Normal | DepthScaled | Xavier, role: Any, depth: int = 1) -> Tensor:
    weight = torch.empty(300, 200)
    init.draw(weight, role, depth, generator(0, "weight"))
    return weight


def test_initial_values_are_as_wide_as_declared() -> None:
    assert drawn(Normal(std=0.5), "matrix").std() == pytest.approx(0.5, rel=0.02)
    assert drawn(DepthScaled(std=0.5), "matrix", depth=8).std() == pytest.approx(0.5, rel=0.02)
    assert drawn(DepthScaled(std=0.5), "output", depth=8).std() == pytest.approx(0.5 / 4, rel=0.02)
    assert drawn(Xavier(), "matrix").std() == pytest.approx((2 / 500) ** 0.5, rel=0.02)
    assert drawn(Xavier(), "embedding").std() == pytest.approx(200**-0.5, rel=0.02)


def test_what_an_init_cannot_draw_is_named_with_what_to_say() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = nn.Parameter(torch.ones(4))

    with pytest.raises(ValueError, match=r"0\.scales, of the shape \(4,\), cannot be drawn by Xavier: .*constants\(\)"):
        initialise(nn.Sequential(Bare()), Xavier(), 0)


def test_what_joins_the_stream_is_scaled_by_depth_and_nothing_else() -> None:
    shallow, deep = (bf.build("gpt2", {"decoder.depth": depth, "dim": 96, "vocab_size": 50}) for depth in (1, 9))
    for name, weight in shallow.named_parameters():
        other = deep.get_parameter(name)
        scaled = name.endswith(("out.weight", "down.weight"))
        torch.testing.assert_close(other, weight / 3 if scaled else weight)


def test_blocks_without_a_paper_are_those_that_are_nobody_s_idea() -> None:
    silent = {
        f"{slot}/{name}"
        for slot in ("activation", "norm", "feedforward", "mixer", "residual", "layer", "head", "embedding", "model")
        for name, entry in entries(slot).items()
        if not entry.block.paper and entry.block.__module__.startswith("blocks.")
    }
    assert silent == {"activation/identity", "activation/tanh", "feedforward/none", "mixer/none", "norm/none"}


def test_a_feedforward_has_norms_of_its_own() -> None:
    block = perturbed("feedforward", "normed", after={"type": "rms", "eps": 0.1}, inner={"type": "mlp", "hidden": 24})
    torch.testing.assert_close(block(wide()), block.after(block.inner(block.before(wide()))))
