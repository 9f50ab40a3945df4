"""Recurrent mixers, against the recurrences that their papers write down and against another implementation."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import blockformer as bf
from blocks.base import Cache, Context, Mixer, Site
from blocks.init.keyed import initialise
from blocks.init.schemes import Normal, Xavier
from blocks.recurrent import additive, chunks
from blocks.recurrent.additive import additive_rule
from blocks.recurrent.base import rows_of
from blocks.recurrent.decaying_linear import DecayingLinear
from blocks.recurrent.delta_rule import gated_delta_rule
from blocks.recurrent.gated_delta import GatedDelta
from blocks.recurrent.linear import LinearAttention
from registry import RecipeError, parse

SITE = Site(dim=32)
LENGTHS = [1, 5, 64, 65, 150]
CHANNEL_LENGTHS = [1, 2, 16, 17, 150]
DELTA: dict[str, Any] = {"type": "gated_delta", "heads": 2, "value_heads": 4, "head_dim": 8, "value_dim": 6}
REVERSING: dict[str, Any] = {**DELTA, "negative_eigenvalues": True}
SSD: dict[str, Any] = {"type": "ssd", "heads": 4, "head_dim": 6, "groups": 2, "state_dim": 5}
SELECTIVE: dict[str, Any] = {"type": "selective_scan", "channels": 24, "state_dim": 5}
RG_LRU: dict[str, Any] = {"type": "rg_lru", "channels": 24, "heads": 3}
CHANNELS: dict[str, Any] = {**DELTA, "decay": "channel", "decay_rank": 5, "gate": "sigmoid", "gate_rank": 3}
LIMITED: dict[str, Any] = {**DELTA, "decay": "channel", "decay_limit": 5.0}
DECAYING: dict[str, Any] = {"type": "decaying_linear", "heads": 4}
CONVOLUTION: dict[str, Any] = {"type": "gated_convolution", "kernel": 4, "bias": True}
MIXERS: list[dict[str, Any]] = [
    DELTA,
    {**DELTA, "kernel": 1},
    REVERSING,
    CHANNELS,
    LIMITED,
    {"type": "linear", "heads": 4},
    DECAYING,
    CONVOLUTION,
    SSD,
    {**SELECTIVE, "norm": "rms"},
    RG_LRU,
]


def mixer(recipe: dict[str, Any], site: Site = SITE, dtype: torch.dtype = torch.float64) -> Any:
    block: Any = parse("mixer", recipe)(site)
    initialise(block, Xavier(), 0)
    with torch.no_grad():
        for index, parameter in enumerate(block.parameters()):
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    return block.to(dtype).eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(block: Mixer, x: Tensor, cache: Cache | None = None, **context: Any) -> Tensor:
    y = block(x, Context.of(x, cache=cache, **context))
    if cache is not None:
        cache.length += x.shape[1]
    return y


def written(length: int, seed: int = 0) -> tuple[Tensor, ...]:
    """q, k (B, H, T, K), v (B, H, T, V), beta, logs (B, H, T)."""
    q, k = normal(2, 3, length, 8, seed=seed), F.normalize(normal(2, 3, length, 8, seed=seed + 1), dim=-1)
    v, beta = normal(2, 3, length, 6, seed=seed + 2), normal(2, 3, length, seed=seed + 3).sigmoid()
    return q, k, v, beta, -normal(2, 3, length, seed=seed + 4).exp()


def delta_by_token(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, logs: Tensor, memory: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    memory = torch.zeros(2, 3, 8, 6, dtype=q.dtype) if memory is None else memory
    found: list[Tensor] = []
    for t in range(q.shape[2]):
        memory = memory * logs[:, :, t].reshape(2, 3, -1, 1).exp()
        held = torch.einsum("bhk,bhkv->bhv", k[:, :, t], memory)
        memory = memory + torch.einsum("bhk,bhv->bhkv", k[:, :, t], beta[:, :, t, None] * (v[:, :, t] - held))
        found.append(torch.einsum("bhk,bhkv->bhv", q[:, :, t], memory))
    return torch.stack(found, dim=2), memory


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("continued", [False, True])
def test_the_delta_rule_by_chunks_is_the_one_by_tokens(length: int, continued: bool) -> None:
    memory = normal(2, 3, 8, 6, seed=9) if continued else None
    for ours, plain in zip(
        gated_delta_rule(*written(length), memory=memory), delta_by_token(*written(length), memory), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=0.0, atol=1e-11)


def by_channel(logs: Tensor) -> Tensor:
    """(B, H, T, K): decays of channels, some of which forget at once and some never."""
    return logs[..., None] * torch.tensor([0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 20.0, 200.0], dtype=logs.dtype)


@pytest.mark.parametrize("length", CHANNEL_LENGTHS)
@pytest.mark.parametrize("continued", [False, True])
def test_channels_that_decay_by_themselves_are_exact_in_chunks(length: int, continued: bool) -> None:
    memory = normal(2, 3, 8, 6, seed=9) if continued else None
    q, k, v, beta, logs = written(length)
    inputs = (q, k, v, beta, by_channel(logs))
    for ours, plain in zip(gated_delta_rule(*inputs, memory=memory), delta_by_token(*inputs, memory), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0.0, atol=1e-11)
    same = gated_delta_rule(q, k, v, beta, logs[..., None].expand(-1, -1, -1, 8), memory=memory)
    torch.testing.assert_close(same, gated_delta_rule(q, k, v, beta, logs, memory=memory), rtol=0.0, atol=1e-11)


def test_channels_start_anew_with_each_text() -> None:
    q, k, v, beta, logs = written(150)
    inputs = (q, k, v, beta, by_channel(logs))
    documents = torch.tensor([0] * 3 + [1] * 80 + [2] * 1 + [3] * 66).expand(2, -1)
    y, _ = gated_delta_rule(*inputs, documents=documents)
    for text in range(4):
        part = documents[0] == text
        alone, _ = delta_by_token(*(tensor[:, :, part] for tensor in inputs))
        torch.testing.assert_close(y[:, :, part], alone, rtol=0.0, atol=1e-11)


def test_channels_that_fade_at_once_have_finite_gradients_in_float32() -> None:
    q, k, v, beta, logs = (tensor.float() for tensor in written(70))
    decays = by_channel(logs).requires_grad_()
    y, _ = gated_delta_rule(q, k, v, beta, decays)
    expected, _ = delta_by_token(q.double(), k.double(), v.double(), beta.double(), decays.detach().double())
    torch.testing.assert_close(y.double(), expected, rtol=0.0, atol=2e-5)
    (slope,) = torch.autograd.grad(y.square().sum(), decays)
    assert bool(slope.isfinite().all())
    assert slope.any()


def test_a_key_is_reversed_exactly_with_beta_up_to_2() -> None:
    q, k, v, beta, logs = written(150)
    for ours, plain in zip(
        gated_delta_rule(q, k, v, 2 * beta, logs), delta_by_token(q, k, v, 2 * beta, logs), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=0.0, atol=1e-11)
    ones = torch.ones_like(beta)
    same = k[:, :, :1].expand_as(k)  # one key: M^T k changes its sign at each token if nothing decays and beta is 2
    start = torch.einsum("bhk,bhv->bhkv", same[:, :, 0], v[:, :, 0])
    y, _ = gated_delta_rule(same, same, torch.zeros_like(v), 2 * ones, 0 * ones, memory=start)
    signs = torch.tensor([-1.0, 1.0], dtype=y.dtype).repeat(75)
    torch.testing.assert_close(y, v[:, :, :1] * signs[:, None], rtol=0.0, atol=1e-11)


def test_negative_eigenvalues_double_beta_and_nothing_else() -> None:
    plain, reversing = mixer(DELTA), mixer(REVERSING)
    assert plain.state_dict().keys() == reversing.state_dict().keys()
    x = normal(2, 9, 32)
    found = [block._gates(x, rows_of(Context.of(x))) for block in (plain, reversing)]
    torch.testing.assert_close(found[1], (2 * found[0][0], found[0][1]), rtol=0.0, atol=0.0)
    assert 1 < float(found[1][0].max()) < 2


def test_the_delta_rule_starts_anew_with_each_text() -> None:
    inputs = written(200)
    documents = torch.tensor([0] * 3 + [1] * 130 + [2] * 1 + [3] * 66)
    both = torch.stack([documents, torch.zeros_like(documents)])
    y, _ = gated_delta_rule(*inputs, documents=both)
    torch.testing.assert_close(y[1:], delta_by_token(*inputs)[0][1:], rtol=0.0, atol=1e-11)
    for text in range(4):
        part = documents == text
        alone, _ = delta_by_token(*(tensor[:, :, part] for tensor in inputs))
        torch.testing.assert_close(y[:1, :, part], alone[:1], rtol=0.0, atol=1e-11)


def test_memories_that_fade_at_once_are_exact() -> None:
    q, k, v, beta, _ = written(70)
    fading = torch.full((2, 3, 70), -300.0, dtype=q.dtype)
    y, _ = gated_delta_rule(q.float(), k.float(), v.float(), beta.float(), fading.float())
    expected, _ = delta_by_token(q, k, v, beta, fading)
    torch.testing.assert_close(y.double(), expected, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("itself", [False, True])
def test_sums_by_chunks_are_those_over_all_earlier_tokens(length: int, itself: bool) -> None:
    q, k, v, *_ = written(length)
    documents = (torch.arange(length) // 40)[None].expand(2, -1)
    seen = (documents[:, :, None] == documents[:, None, :]).tril(0 if itself else -1)
    y, _ = additive_rule(q, k, v, documents, itself=itself)
    torch.testing.assert_close(y, ((q @ k.transpose(-2, -1)) * seen[:, None]) @ v, rtol=0.0, atol=1e-11)
    _, memory = additive_rule(q, k, v, memory=normal(2, 3, 8, 6, seed=9))
    torch.testing.assert_close(memory, normal(2, 3, 8, 6, seed=9) + k.transpose(-2, -1) @ v, rtol=0.0, atol=1e-11)


def test_sums_that_decay_are_those_over_all_earlier_tokens() -> None:
    q, k, v, _, logs = written(150)
    total = logs.cumsum(dim=-1)
    faded = (total[..., :, None] - total[..., None, :]).exp().tril()
    y, memory = additive_rule(q, k, v, logs=logs)
    torch.testing.assert_close(y, ((q @ k.transpose(-2, -1)) * faded) @ v, rtol=0.0, atol=1e-11)
    left = k * faded[:, :, -1, :, None]
    torch.testing.assert_close(memory, left.transpose(-2, -1) @ v, rtol=0.0, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("by_layer", [False, True])
def test_heads_forget_at_fixed_rates(by_layer: bool) -> None:
    site = replace(SITE, depth=5, layer=2)
    block = mixer({**DECAYING, "norm_over": "head", "by_layer": by_layer}, site)
    x = normal(2, 40, 32)
    q, k, v = (F.silu(layer(x)).view(2, 40, 4, 8).transpose(1, 2) for layer in (block.q, block.k, block.v))
    rates = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8], dtype=x.dtype) * (0.5 if by_layer else 1.0)
    times = torch.arange(40, dtype=x.dtype)
    faded = (-rates[:, None, None] * (times[:, None] - times)).exp().tril()
    y = ((q @ k.transpose(-2, -1)) * faded) @ v
    expected = block.out(block.norm(y.transpose(1, 2)).flatten(2) * block.gate(x).sigmoid())
    torch.testing.assert_close(run(block, x), expected, rtol=0.0, atol=2e-3 if by_layer else 1e-11)  # 1e-5 in the rate


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("feature", ["elu", "relu"])
def test_linear_attention_weighs_by_features(causal: bool, feature: str) -> None:
    block = mixer({"type": "linear", "heads": 4, "feature": feature}, replace(SITE, causal=causal))
    x = normal(2, 70, 32)
    q, k, v = (layer(x).view(2, 70, 4, 8).transpose(1, 2) for layer in (block.q, block.k, block.v))
    q, k = (F.relu(part) if feature == "relu" else F.elu(part) + 1 for part in (q, k))
    weights = q @ k.transpose(-2, -1)
    weights = weights.tril() if causal else weights
    y = (weights @ v) / (weights.sum(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(run(block, x), block.out(y.transpose(1, 2).flatten(2)), rtol=0.0, atol=1e-11)


@torch.no_grad()
def test_linear_attention_from_both_sides_keeps_documents_apart() -> None:
    block, x = mixer({"type": "linear", "heads": 4}, replace(SITE, causal=False)), normal(1, 100, 32)
    documents = torch.tensor([[7] * 20 + [2] * 70 + [3] * 10])
    y = run(block, x, documents=documents)
    for document in (7, 2, 3):
        part = documents[0] == document
        torch.testing.assert_close(y[:, part], run(block, x[:, part]), rtol=0.0, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("heads", [(2, 4), (3, 3)])
def test_gated_delta_equals_qwen3_next(heads: tuple[int, int]) -> None:
    modelling = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    config = modelling.Qwen3NextConfig(
        hidden_size=32,
        linear_num_key_heads=heads[0],
        linear_num_value_heads=heads[1],
        linear_key_head_dim=8,
        linear_value_head_dim=6,
        linear_conv_kernel_dim=4,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs = modelling.Qwen3NextGatedDeltaNet(config, 0).eval()
    ours = mixer({**DELTA, "heads": heads[0], "value_heads": heads[1]}, dtype=torch.float32)
    theirs.load_state_dict(weights_of_qwen3_next(ours), strict=True)
    assert_equal(ours, theirs)


def weights_of_qwen3_next(ours: GatedDelta) -> dict[str, Tensor]:
    """Ours as theirs: projections side by side, for one key head after another."""

    def by_key_head(*weights: Tensor) -> Tensor:
        return torch.cat([weight.view(ours.heads, -1, 32) for weight in weights], dim=1).flatten(0, 1)

    return {
        "in_proj_qkvz.weight": by_key_head(ours.q.weight, ours.k.weight, ours.v.weight, ours.gate.weight),
        "in_proj_ba.weight": by_key_head(ours.beta.weight, ours.step.weight),
        "conv1d.weight": ours.convolution[:, None],
        "dt_bias": ours.step_bias,
        "A_log": ours.log_rate,
        "norm.weight": ours.norm.get_parameter("weight"),
        "out_proj.weight": ours.out.weight,
    }


@torch.no_grad()
def test_gated_delta_equals_qwen3_5() -> None:
    modelling = pytest.importorskip("transformers.models.qwen3_5.modeling_qwen3_5")
    config = modelling.Qwen3_5TextConfig(
        hidden_size=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=6,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs, ours = modelling.Qwen3_5GatedDeltaNet(config, 0).eval(), mixer(DELTA, dtype=torch.float32)
    weights = {
        "in_proj_qkv.weight": torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]),
        "in_proj_z.weight": ours.gate.weight,
        "in_proj_b.weight": ours.beta.weight,
        "in_proj_a.weight": ours.step.weight,
        "conv1d.weight": ours.convolution[:, None],
        "dt_bias": ours.step_bias,
        "A_log": ours.log_rate,
        "norm.weight": ours.norm.get_parameter("weight"),
        "out_proj.weight": ours.out.weight,
    }
    theirs.load_state_dict(weights, strict=True)
    assert_equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("limit", [None, 3.0])
def test_full_rank_decays_of_channels_equal_bailing_hybrid(limit: float | None) -> None:
    modelling = pytest.importorskip("transformers.models.bailing_hybrid.modeling_bailing_hybrid")
    config = modelling.BailingHybridConfig(
        hidden_size=32,
        linear_num_heads=3,
        linear_head_dim=8,
        kda_safe_gate=limit is not None,
        kda_lower_bound=-(limit or 3.0),
        rms_norm_eps=1e-6,
    )
    theirs = modelling.BailingHybridDeltaAttention(config, 0).eval()
    options = {"heads": 3, "head_dim": 8, "decay": "channel", "gate": "sigmoid", "decay_limit": limit}
    ours = mixer({"type": "gated_delta", **options}, dtype=torch.float32)
    names = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "b_proj": "beta", "g_proj": "gate", "o_proj": "out"}
    names |= {"o_norm": "norm", "forget_gate.f_proj": "step"}
    weights = {f"{their}.weight": ours.get_parameter(f"{our}.weight") for their, our in names.items()}
    weights |= {"conv1d.weight": ours.convolution[:, None], "forget_gate.dt_bias": ours.step_bias}
    theirs.load_state_dict(weights | {"forget_gate.A_log": ours.log_rate}, strict=True)
    assert_equal(ours, theirs)


def assert_equal(ours: Mixer, theirs: Any) -> None:
    """Two blocks give the same, also beside padding."""
    x, mask = normal(2, 150, 32).float(), torch.ones(2, 150, dtype=torch.bool)
    mask[1, :9] = False
    expected = theirs(x, attention_mask=mask)
    y = run(ours, x, attention_mask=mask)
    assert float((y - expected)[mask].abs().max()) <= 2e-5 * float(expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("recipe", MIXERS, ids=str)
@pytest.mark.parametrize("sizes", [[150, 1, 1], [1] * 5, [70, 3, 64, 1], [2, 0, 66]])
def test_decoding_in_parts_gives_what_the_whole_gives(recipe: dict[str, Any], sizes: list[int]) -> None:
    block, x, cache = mixer(recipe), normal(2, sum(sizes), 32), Cache(1)
    parts = torch.cat([run(block, part, cache) for part in x.split(sizes, dim=1)], dim=1)
    torch.testing.assert_close(parts, run(block, x), rtol=0.0, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("recipe", MIXERS, ids=str)
def test_padding_anywhere_neither_writes_nor_decays(recipe: dict[str, Any]) -> None:
    block, x, cache = mixer(recipe), normal(2, 90, 32), Cache(1)
    mask = torch.rand(2, 90, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[1, 40:] = False
    ends = ((0, 45), (45, 46), (46, 90))
    parts = [run(block, x[:, a:b], cache, attention_mask=mask[:, a:b]) for a, b in ends]
    whole = run(block, x, attention_mask=mask)
    for row in range(2):
        alone = run(block, x[row, mask[row]][None])[0]
        torch.testing.assert_close(whole[row, mask[row]], alone, rtol=0.0, atol=1e-11)
        torch.testing.assert_close(torch.cat(parts, dim=1)[row, mask[row]], alone, rtol=0.0, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("recipe", MIXERS, ids=str)
def test_documents_and_padding_together(recipe: dict[str, Any]) -> None:
    block, x = mixer(recipe), normal(1, 12, 32)
    documents = torch.tensor([[0, 5, 5, 5, 0, 5, 8, 8, 8, 8, 0, 0]])
    y = run(block, x, attention_mask=documents > 0, documents=documents)
    for document in (5, 8):
        part = documents[0] == document
        torch.testing.assert_close(y[:, part], run(block, x[:, part]), rtol=0.0, atol=1e-11)


@pytest.mark.parametrize("recipe", MIXERS, ids=str)
def test_the_future_is_hidden_across_chunks(recipe: dict[str, Any]) -> None:
    block, x = mixer(recipe), normal(1, 130, 32).requires_grad_()
    for time in (0, 63, 64, 100):
        (slope,) = torch.autograd.grad(run(block, x)[:, time].sum(), x)
        assert slope[:, time].any()
        assert not slope[:, time + 1 :].any()


def test_what_is_remembered_does_not_grow() -> None:
    for recipe in MIXERS:
        block = mixer(recipe)
        found = [Cache(1), Cache(1)]
        for cache, length in zip(found, (3, 90), strict=True):
            run(block, normal(2, length, 32), cache)
        short, long = ([v.shape for v in vars(c.layers[0]["mixer"]).values() if v is not None] for c in found)
        assert short == long
        assert block.cached_per_token == 0


def test_heads_start_with_memories_of_different_spans() -> None:
    block = GatedDelta(Site(dim=32), heads=4)
    initialise(block, Normal(), 0)
    torch.testing.assert_close(F.softplus(block.step_bias), torch.tensor([1.0, 0.1, 0.01, 0.001]))
    assert block.convolution[:, -1].eq(1).all()
    assert not block.convolution[:, :-1].any()


def test_channels_start_with_memories_of_different_spans() -> None:
    options: dict[str, Any] = {"heads": 2, "head_dim": 4, "decay": "channel"}
    for limit in (None, 5.0):
        block = GatedDelta(Site(dim=32), **options, decay_limit=limit)
        initialise(block, Normal(), 0)
        steps = F.softplus(block.step_bias) if limit is None else limit * block.step_bias.sigmoid()
        torch.testing.assert_close(steps, torch.tensor([1.0, 0.1, 0.01, 0.001] * 2))


def test_cost_for_a_token_grows_up_to_a_chunk_only() -> None:
    for block in (LinearAttention(SITE), GatedDelta(SITE), GatedDelta(SITE, decay="channel"), DecayingLinear(SITE)):
        assert block.flops_per_token(8) < block.flops_per_token(64) == block.flops_per_token(4096)


def test_chunks_are_as_few_and_as_equal_as_can_be() -> None:
    assert [chunks.layout(length) for length in (0, 1, 64, 65, 130)] == [(1, 1), (1, 1), (1, 64), (2, 33), (3, 44)]
    assert additive.additive_rule_flops(65, 8, 6) * 65 == additive.additive_rule_flops(33, 8, 6) * 66


def test_an_encoder_with_a_gated_memory_is_refused() -> None:
    layer = {"mixer": "gated_delta"}
    with pytest.raises(RecipeError, match="'gated_delta' does not support bidirectional mixing"):
        bf.build({"type": "encoder_only", "dim": 32, "vocab_size": 8, "encoder": {"depth": 1, "layer": layer}})


@pytest.mark.parametrize(
    ("params", "words"),
    [({"heads": 5}, "dim=32 is not a multiple of heads=5"), ({"value_heads": 12}, "value_heads=12 is not a multiple")],
)
def test_gated_delta_refuses_what_does_not_fit(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse("mixer", {"type": "gated_delta", **params})(SITE)


def test_a_convolution_that_mixes_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel=1 mixes no tokens"):
        parse("mixer", {"type": "gated_convolution", "kernel": 1})(SITE)


@torch.no_grad()
def test_memories_and_attention_write_the_same_text_with_a_cache() -> None:
    model: Any = bf.build("tiny_hybrid", dtype=torch.float64).eval()
    kinds = [type(layer.mixer).__name__ for layer in model.decoder.layers]
    assert kinds == ["GatedDelta"] * 3 + ["LatentAttention"]
    assert model.cached_per_token == 16 + 4
    tokens, cache = torch.randint(260, (2, 20), generator=torch.Generator().manual_seed(0)), model.new_cache()
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, :5] = False
    parts = [model(tokens[:, :8], attention_mask=mask[:, :8], cache=cache)]
    parts += [model(token, cache=cache) for token in tokens[:, 8:].split(1, dim=1)]
    whole, alone = model(tokens, attention_mask=mask), model(tokens[1:, 5:])
    torch.testing.assert_close(torch.cat(parts, dim=1)[mask], whole[mask], rtol=0.0, atol=1e-11)
    torch.testing.assert_close(whole[1:, 5:], alone, rtol=0.0, atol=1e-11)


@pytest.mark.slow
def test_memories_learn_to_recall() -> None:
    """Which symbol stood after this one, in a text in which that could be any: log(8) if nothing were remembered."""
    layer = {"mixer": {"type": "gated_delta", "heads": 4}, "feedforward": "none"}
    recipe = {"dim": 32, "vocab_size": 8, "embedding": {"positions": "none"}, "decoder": {"depth": 2, "layer": layer}}
    model: Any = bf.build({"type": "decoder_only", **recipe}, seed=0)
    optimizer, generator = torch.optim.AdamW(model.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    losses: list[float] = []
    for _ in range(160):
        symbols = torch.rand(32, 8, generator=generator).argsort(dim=1)
        tokens = torch.cat([symbols, symbols], dim=1)
        loss = F.cross_entropy(model(tokens[:, :-1])[:, 8:].flatten(0, 1), tokens[:, 9:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 2.0
    assert losses[-1] < 0.5
