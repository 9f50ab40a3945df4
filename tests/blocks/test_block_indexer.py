"""Attention to chosen blocks of keys: against another implementation, and its decoding."""

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from blockformer.conformance import BlockCase
from blocks.base import Cache, Context, Site
from registry import parse

NORM = {"type": "rms", "eps": 1e-2, "offset": 1.0}
INDEX = {"type": "block_indexer", "heads": 3, "head_dim": 12, "rotary_dim": 8, "block": 3, "keep": 6, "norm": NORM}
HALF = {"type": "rotary", "fraction": 0.5}
ATTENTION = {"type": "attention", "heads": 4, "kv_heads": 2, "head_dim": 16, "qk_norm": NORM, "gate": "sigmoid"}


def attention(**params: Any) -> Any:
    torch.manual_seed(0)
    case = BlockCase("mixer", "attention", {"heads": 4, "positions": "rotary", "selector": INDEX, **params})
    return case.build_perturbed().eval()


def vectors(length: int = 16) -> Tensor:
    return torch.randn(2, length, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def run(block: Any, x: Tensor, **given: Any) -> Tensor:
    context = Context.of(x, **given)
    block.prepare(context)
    y = block(x, context)
    if context.cache is not None:
        context.cache.advance(x.shape[1])
    return y


@torch.no_grad()
def test_it_equals_that_of_qwen4_exp() -> None:
    pytest.importorskip("transformers")
    where = "transformers.models.qwen4_exp"
    config: Any = import_module(f"{where}.configuration_qwen4_exp")
    module: Any = import_module(f"{where}.modeling_qwen4_exp")
    made = config.Qwen4ExpTextConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-2,
        indexer_n_heads=8,
        indexer_kv_heads=1,
        indexer_head_dim=12,
        indexer_budget=6,
        indexer_compress_ratio=3,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    )
    made._attn_implementation = "eager"
    theirs = module.Qwen4ExpTextAttention(made, 0).eval()
    for number, parameter in enumerate(theirs.parameters()):
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    stored = theirs.state_dict()
    q, gate = stored["q_proj.weight"].view(4, 2, 16, 32).transpose(0, 1).flatten(1, 2)
    index_q, index_k = stored["indexer.index_qk_proj.weight"].split([96, 12])
    block: Any = parse("mixer", {**ATTENTION, "positions": HALF, "selector": {**INDEX, "heads": 8}})(
        Site(dim=32, max_length=32)
    )
    block.load_state_dict(
        {
            "q.weight": q,
            "gate.weight": gate,
            "k.weight": stored["k_proj.weight"],
            "v.weight": stored["v_proj.weight"],
            "out.weight": stored["o_proj.weight"],
            "q_norm.weight": stored["q_norm.weight"],
            "k_norm.weight": stored["k_norm.weight"],
            "selector.q.weight": index_q,
            "selector.k.weight": index_k,
            "selector.q_norm.weight": stored["indexer.q_layernorm.weight"],
            "selector.k_norm.weight": stored["indexer.k_layernorm.weight"],
        }
    )
    x = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, :4] = False
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    tables = module.Qwen4ExpTextRotaryEmbedding(made)(x, positions[None].expand(3, -1, -1))
    visible = torch.ones(20, 20, dtype=torch.bool).tril() & mask[:, None, None]
    bias = torch.zeros(2, 1, 20, 20).masked_fill(~visible, torch.finfo(torch.float32).min)
    expected, _ = theirs(x, tables, bias)
    found = run(block.eval(), x, attention_mask=mask)
    torch.testing.assert_close(found[mask], expected[mask], atol=2e-5, rtol=1e-4)
    everything = run(without_choice(block), x, attention_mask=mask)
    assert float((everything - found)[mask].abs().max()) > 1e-3  # the choice matters


def without_choice(block: Any) -> Any:
    """The same attention without a choice."""
    block.selector = None
    return block


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("parts", [[1] * 16, [7, 1, 5, 3]])
def test_decoding_gives_the_same(window: int | None, parts: list[int]) -> None:
    block, x, cache = attention(window=window), vectors(), Cache(1)
    mask = torch.ones(2, 16, dtype=torch.bool)
    mask[0, :5] = False
    pieces = zip(x.split(parts, 1), mask.split(parts, 1), strict=True)
    found = torch.cat([run(block, piece, attention_mask=seen, cache=cache) for piece, seen in pieces], dim=1)
    expected = run(block, x, attention_mask=mask)
    torch.testing.assert_close(found[mask], expected[mask])


@torch.no_grad()
def test_documents_have_blocks_of_their_own() -> None:
    block, x = attention(), vectors()
    documents = torch.tensor([0] * 5 + [1] * 11).expand(2, -1)
    found = run(block, x, documents=documents)
    torch.testing.assert_close(found[:, :5], run(block, x[:, :5]))
    torch.testing.assert_close(found[:, 5:], run(block, x[:, 5:]))


def chosen(block: Any, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    hook = block.selector.register_forward_hook(lambda *given: found.append(given[2].keys))
    run(block, x)
    hook.remove()
    return found[0][0, 0]


@torch.no_grad()
def test_whole_blocks_are_chosen_and_those_that_are_not_whole_are_always_attended_to() -> None:
    keys = chosen(attention(), vectors())
    for query in range(16):
        whole = (query + 1) // 3
        assert bool(keys[query, 3 * whole : query + 1].all())
        assert not bool(keys[query, query + 1 :].any())
        blocks = keys[query, : 3 * whole].view(whole, 3)
        assert torch.equal(blocks.all(1), blocks.any(1))
        assert int(blocks.all(1).sum()) == min(whole, 2)


@torch.no_grad()
def test_a_window_leaves_out_what_is_not_in_it() -> None:
    block, x = attention(window=8), vectors()
    other = x.clone()
    other[:, :8] = 0.0
    torch.testing.assert_close(run(block, x)[:, 15:], run(block, other)[:, 15:])


def test_it_keeps_whole_blocks() -> None:
    with pytest.raises(ValueError, match="keep=5 is not a multiple of block=3"):
        parse("key_selector", {**INDEX, "keep": 5})(Site(dim=32), 32)
    with pytest.raises(ValueError, match="rotary_dim=14 is more than head_dim=12"):
        parse("key_selector", {**INDEX, "rotary_dim": 14})(Site(dim=32), 32)
