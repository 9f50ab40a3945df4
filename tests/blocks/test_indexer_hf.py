"""Attention with an index against another implementation: rotation at the end, sinks, gates and a shared choice."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from blocks.base import Context, Site
from registry import parse

SITE = Site(dim=32, max_length=32)
SHARED = {
    "type": "latent",
    "heads": 4,
    "head_dim": 12,
    "rotary_dim": 8,
    "value_dim": 10,
    "kv_rank": 20,
    "q_rank": 22,
    "norm": {"type": "rms", "eps": 1e-6},
    "positions": "rotary",
    "sinks": True,
    "gate": "sigmoid",
}
INDEXER = {
    "type": "indexer",
    "heads": 3,
    "head_dim": 12,
    "keep": 5,
    "rotary_dim": 8,
    "rotary_at": "last",
    "ties": "any",
}


def theirs() -> tuple[Any, Any, Any]:
    """Two attentions of transformers, of which the second shares the choice of the first, and their rotary tables."""
    pytest.importorskip("transformers")
    from transformers.models.hy_v4 import modeling_hy_v4 as modelling
    from transformers.models.hy_v4.configuration_hy_v4 import HYV4Config

    config = cast("Any", HYV4Config)(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        kv_lora_rank=20,
        q_lora_rank=22,
        qk_rope_head_dim=8,
        qk_nope_head_dim=12,
        v_head_dim=10,
        max_position_embeddings=64,
        index_n_heads=3,
        index_head_dim=12,
        index_topk=5,
        indexer_types=["full", "shared"],
        rms_norm_eps=1e-5,
    )
    config._attn_implementation = "eager"
    layers = [cast("Any", modelling).HYV4Attention(config, layer).eval() for layer in range(2)]
    for number, parameter in enumerate(p for layer in layers for p in layer.parameters()):
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return *layers, cast("Any", modelling).HYV4RotaryEmbedding(config)


def ours(layer: int, other: Any) -> Any:
    """Our attention with the parameters of theirs, which has several projections in one."""
    selector = {**INDEXER, "norm": {"type": "layer", "eps": 1e-5}} if layer == 0 else "earlier"
    block: Any = parse("mixer", {**SHARED, "selector": selector})(Site(dim=32, max_length=32, depth=2, layer=layer))
    stored: dict[str, Tensor] = other.state_dict()
    down, rotary = stored["kv_a_proj_with_mqa.weight"].split([20, 8])
    k, v = stored["kv_b_proj.weight"].view(4, 22, 20).split([12, 10], dim=1)
    found = {
        "kv_down.weight": down,
        "k_rotary.weight": rotary,
        "k.weight": k.flatten(0, 1),
        "v.weight": v.flatten(0, 1),
        "kv_norm.weight": stored["kv_a_layernorm.weight"],
        "q_norm.weight": stored["q_a_layernorm.weight"],
        "q_down.weight": stored["q_a_proj.weight"],
        "q.weight": stored["q_b_proj.weight"],
        "out.weight": stored["o_proj.weight"],
        "gate.weight": stored["gate_proj.weight"],
        "sinks": stored["sinks"],
    }
    if layer == 0:
        names = {"q": "wq_b", "k": "wk", "weights": "weights_proj"}
        found |= {f"selector.{one}.weight": stored[f"indexer.{name}.weight"] for one, name in names.items()}
        found |= {f"selector.k_norm.{leaf}": stored[f"indexer.k_norm.{leaf}"] for leaf in ("weight", "bias")}
    block.load_state_dict(found)
    return block.eval()


@torch.no_grad()
def test_two_layers_that_share_a_choice() -> None:
    first, second, rotary = theirs()
    x = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(0))
    tables = rotary(x, torch.arange(24)[None])
    mask = torch.full((24, 24), torch.finfo(torch.float32).min).triu(1).expand(2, 1, -1, -1)
    expected, _, chosen = first(x, tables, mask)
    next_expected, _, _ = second(expected, tables, mask, prev_topk_indices=chosen)
    context = Context.of(x)
    y = ours(0, first)(x, context)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours(1, second)(y, context), next_expected, atol=1e-5, rtol=1e-4)
