"""Latent attention, against another implementation and against itself."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blockformer as bf
from blocks.attention.latent import LatentAttention
from blocks.base import Cache, Context, Site
from blocks.init.keyed import initialise
from blocks.init.schemes import Xavier
from registry import RecipeError, parse

SITE = Site(dim=32)
SIZES: dict[str, Any] = {"heads": 4, "head_dim": 12, "rotary_dim": 8, "value_dim": 10, "kv_rank": 20}
YARN = {"type": "yarn", "factor": 4.0, "trained_length": 16, "magnitude": 1.0}


def mixer(site: Site = SITE, **params: Any) -> LatentAttention:
    block: Any = parse("mixer", {"type": "latent", **SIZES, **params})(site)
    initialise(block, Xavier(), 0)
    with torch.no_grad():
        for index, parameter in enumerate(block.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    return block.eval()


def inputs(batch: int = 2, length: int = 24) -> Tensor:
    return torch.randn(batch, length, SITE.dim, generator=torch.Generator().manual_seed(0))


def run(block: LatentAttention, x: Tensor, cache: Cache | None = None, **context: Any) -> Tensor:
    y = block(x, Context.of(x, cache=cache, **context))
    if cache is not None:
        cache.length += x.shape[1]
    return y


def theirs(family: str, **config: Any) -> tuple[nn.Module, nn.Module]:
    """The attention of transformers and its rotary tables."""
    pytest.importorskip("transformers")
    from importlib import import_module

    title = {"deepseek_v2": "DeepseekV2", "deepseek_v3": "DeepseekV3"}[family]
    modelling = import_module(f"transformers.models.{family}.modeling_{family}")
    made = getattr(import_module(f"transformers.models.{family}.configuration_{family}"), f"{title}Config")(
        hidden_size=SITE.dim,
        num_attention_heads=4,
        num_key_value_heads=4,
        kv_lora_rank=20,
        qk_rope_head_dim=8,
        qk_nope_head_dim=12,
        v_head_dim=10,
        max_position_embeddings=64,
        **config,
    )
    made._attn_implementation = "eager"
    return getattr(modelling, f"{title}Attention")(made, 0).eval(), getattr(modelling, f"{title}RotaryEmbedding")(made)


def give_weights(block: LatentAttention, other: Any) -> None:
    """Copy ours to theirs, which has several projections in one."""
    rows = block.k.weight.view(4, 12, 20), block.v.weight.view(4, 10, 20)
    weights = {
        "kv_a_proj_with_mqa.weight": torch.cat([block.kv_down.weight, block.k_rotary.weight]),
        "kv_a_layernorm.weight": block.kv_norm.weight,
        "kv_b_proj.weight": torch.cat(rows, dim=1).flatten(0, 1),
        "o_proj.weight": block.out.weight,
    }
    if block.q_down is None or block.q_norm is None:
        weights["q_proj.weight"] = block.q.weight
    else:
        weights |= {"q_a_proj.weight": block.q_down.weight, "q_a_layernorm.weight": block.q_norm.weight}
        weights["q_b_proj.weight"] = block.q.weight
    if block.out.bias is not None:
        weights["kv_a_proj_with_mqa.bias"] = torch.cat([block.kv_down.bias, block.k_rotary.bias])
        weights["o_proj.bias"] = block.out.bias
        if block.q_down is not None:
            weights["q_a_proj.bias"] = block.q_down.bias
    other.load_state_dict(weights, strict=True)


def expected(family: str, block: LatentAttention, x: Tensor, **config: Any) -> Tensor:
    other, rotary = theirs(family, **config)
    give_weights(block, other)
    length = x.shape[1]
    unseen = torch.full((length, length), -torch.inf).triu(1)[None, None]
    tables = rotary(x, torch.arange(length)[None])
    return other(x, position_embeddings=tables, attention_mask=unseen)[0]


def assert_near(actual: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    assert actual.shape == wanted.shape
    assert float((actual - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_equals_deepseek_v2(bias: bool) -> None:
    block = mixer(bias=("kv_down", "k_rotary", "out") if bias else False)
    assert_near(run(block, inputs()), expected("deepseek_v2", block, inputs(), q_lora_rank=None, attention_bias=bias))


@torch.no_grad()
@pytest.mark.parametrize("interleaved", [False, True])
def test_equals_deepseek_v3_with_yarn(interleaved: bool) -> None:
    sharper = (0.1 * math.log(4.0) + 1.0) ** 2
    block = mixer(
        q_rank=28,
        bias=("q_down", "kv_down", "k_rotary", "out"),
        scale=20**-0.5 * sharper,
        positions={"type": "rotary", "interleaved": interleaved, "scaling": YARN},
    )
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
    other = expected(
        "deepseek_v3",
        block,
        inputs(),
        q_lora_rank=28,
        attention_bias=True,
        rope_interleave=interleaved,
        rope_parameters={**rope, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    )
    assert_near(run(block, inputs()), other)


@torch.no_grad()
@pytest.mark.parametrize("params", [{}, {"window": 3}, {"bias": True}, {"q_rank": 16}, {"positions": "alibi"}])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_one_token_steps_give_what_the_whole_gives(params: dict[str, Any], backend: str) -> None:
    block, x, cache = mixer(**params, backend=backend).double(), inputs(length=9).double(), Cache(1)
    whole = run(block, x)
    parts = [run(block, part, cache) for part in (x[:, :4], *x[:, 4:7].split(1, dim=1), x[:, 7:])]
    assert_near(torch.cat(parts, dim=1), whole, 1e-12)


@torch.no_grad()
def test_one_token_steps_make_no_keys_of_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x, cache = mixer(), inputs(length=5), Cache(1)
    run(block, x[:, :4], cache)
    monkeypatch.setattr(block.k, "forward", lambda *_: pytest.fail("keys were expanded"))
    run(block, x[:, 4:], cache)


@torch.no_grad()
def test_a_row_of_padding_gives_the_output_bias_alone_when_it_is_continued() -> None:
    block, x, cache = mixer(bias=("out",)), inputs(length=5), Cache(1)
    hidden = torch.tensor([[True], [False]])
    run(block, x[:, :4], cache, attention_mask=hidden.expand(2, 4))
    y = run(block, x[:, 4:], cache, attention_mask=hidden)
    torch.testing.assert_close(y[1, 0], block.out.bias)


@torch.no_grad()
def test_a_window_hides_what_is_further_on_both_sides() -> None:
    block, x = mixer(Site(dim=32, causal=False), window=3), inputs(length=9)
    changed = x.clone()
    changed[:, 0] += 1.0
    moved = (run(block, changed) != run(block, x)).any(-1).any(0)
    assert moved.tolist() == [True] * 3 + [False] * 6


@torch.no_grad()
def test_the_rotary_part_alone_knows_positions() -> None:
    block, x = mixer(), inputs(length=6)
    later = block(x, Context.of(x, positions=torch.arange(6) + 7))
    apart = block(x, Context.of(x, positions=torch.arange(6) * 7))
    assert_near(later, run(block, x), 1e-5)
    assert float((apart - later).abs().max()) > 1e-3
    block.k_rotary.weight.zero_()
    assert_near(block(x, Context.of(x, positions=torch.arange(6) * 7)), run(block, x), 1e-6)


def test_the_cache_keeps_the_latent_and_one_rotated_key() -> None:
    assert mixer().cached_per_token == 28


def test_sizes_come_from_the_width_as_in_the_paper() -> None:
    block = LatentAttention(Site(dim=512))
    assert (block.head_dim, block.rotary_dim, block.value_dim, block.kv_rank) == (64, 32, 64, 256)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"heads": 5, "head_dim": None}, "dim=32 is not a multiple of heads=5"),
        ({"bias": ["q_down"]}, "bias lists q_down, but without q_rank"),
        ({"rotary_dim": 3}, "rotary positions pair channels"),
        ({"backend": "flex", "dropout": 0.1}, "backend=flex does not support dropout"),
    ],
)
def test_refuses_what_does_not_fit(params: dict[str, Any], words: str) -> None:
    layer = {"mixer": {"type": "latent", **SIZES, **params}}
    with pytest.raises(RecipeError, match=words):
        bf.build({"type": "decoder_only", "dim": 32, "vocab_size": 8, "decoder": {"depth": 1, "layer": layer}})


def test_refuses_to_stand_where_there_is_a_memory() -> None:
    with pytest.raises(ValueError, match="does not support cross-attention"):
        LatentAttention(Site(dim=32, memory_dim=32))


def test_decodes_with_sinks_gates_scales_and_a_norm_of_the_rotary_part() -> None:
    given = {"sinks": True, "gate": "sigmoid", "rotary_norm": "rms", "q_scale": 1.5, "kv_scale": 2.0, "q_rank": 12}
    block, x, cache = mixer(**given), inputs(), Cache(1)
    parts = [run(block, part, cache) for part in x.split([10, 1, 1, 12], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), run(block, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sinks", "gate", "rotary_norm", "q_scale", "kv_scale"])
def test_each_option_changes_the_output(name: str) -> None:
    value = {"sinks": True, "gate": "sigmoid", "rotary_norm": "rms", "q_scale": 1.5, "kv_scale": 2.0}[name]
    changed, x = mixer(**{name: value}), inputs()
    plain = mixer()
    plain.load_state_dict({key: changed.state_dict()[key] for key in plain.state_dict()})
    assert (run(changed, x) - run(plain, x)).abs().max() > 1e-3
