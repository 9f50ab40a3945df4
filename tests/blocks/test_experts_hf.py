"""The experts of published models, from the classes that define them, with the same weights."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blocks.base import Component, Site
from blocks.routing.balance import balance_loss, tokens_per_expert
from registry import parse

transformers = pytest.importorskip("transformers")
DIM, HIDDEN, EXPERTS = 32, 40, 8
Weights = Mapping[str, Tensor]
BASE = {"hidden_size": DIM, "num_attention_heads": 4, "vocab_size": 50, "hidden_act": "silu"}
GROUPED = {"n_routed_experts": EXPERTS, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2}


def gated(source: Weights, experts: str = "experts") -> dict[str, Tensor]:
    """Our names for experts with gate and up one above the other."""
    gate, up = source[f"{experts}.gate_up_proj"].chunk(2, dim=1)
    return {"experts.gate.weight": gate, "experts.up.weight": up, "experts.down.weight": source[f"{experts}.down_proj"]}


def shared(source: Weights, name: str) -> dict[str, Tensor]:
    return {f"shared.{part}.weight": source[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down")}


def mixtral(source: Weights) -> dict[str, Tensor]:
    return {**gated(source), "router.linear.weight": source["gate.weight"]}


def granite(source: Weights) -> dict[str, Tensor]:
    return {**gated(source), "router.linear.weight": source["router.weight"]}


def qwen(source: Weights) -> dict[str, Tensor]:
    gate = {"shared_gate.weight": source["shared_expert_gate.weight"]}
    return {**mixtral(source), **shared(source, "shared_expert"), **gate}


def deepseek_v2(source: Weights) -> dict[str, Tensor]:
    return {**mixtral(source), **shared(source, "shared_experts")}


def deepseek_v3(source: Weights) -> dict[str, Tensor]:
    return {**deepseek_v2(source), "router.selection_bias": source["gate.e_score_correction_bias"]}


def gpt_oss(source: Weights) -> dict[str, Tensor]:
    both, bias = source["experts.gate_up_proj"].mT, source["experts.gate_up_proj_bias"]
    return {
        "router.linear.weight": source["router.weight"],
        "router.linear.bias": source["router.bias"],
        "experts.gate.weight": both[:, ::2],
        "experts.up.weight": both[:, 1::2],
        "experts.down.weight": source["experts.down_proj"].mT,
        "experts.gate.bias": bias[:, ::2],
        "experts.up.bias": bias[:, 1::2],
        "experts.down.bias": source["experts.down_proj_bias"],
    }


SIGMOID = {"scores": "sigmoid", "top_k": 3, "scale": 2.5, "balance_rate": 0.0}
SCALED = {"num_experts_per_tok": 3, "routed_scaling_factor": 2.5, "norm_topk_prob": True}
OF_LOGITS = {"scores": "logits", "weights": "softmax"}
SWISH = {"activation": {"type": "swish", "beta": 1.702}}


def glu(hidden: int, **settings: Any) -> dict[str, Any]:
    return {"type": "glu", "hidden": hidden, **settings}


# of each: their config, their block, their settings, their names to ours, our settings
CASES: dict[str, tuple[str, str, dict[str, Any], Callable[[Weights], dict[str, Tensor]], dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", "MixtralSparseMoeBlock", {"num_local_experts": 8}, mixtral, {}),
    "olmoe": (
        "OlmoeConfig",
        "OlmoeSparseMoeBlock",
        {"num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": False},
        mixtral,
        {"router": {"top_k": 3, "weights": "scores"}},
    ),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        "Qwen2MoeSparseMoeBlock",
        {"num_experts": 8, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 24, "norm_topk_prob": False},
        qwen,
        {"router": {"weights": "scores"}, "shared": glu(24), "shared_gate": True},
    ),
    "granitemoe": (
        "GraniteMoeConfig",
        "GraniteMoeMoE",
        {"num_local_experts": 8, "num_experts_per_tok": 2},
        granite,
        {"router": OF_LOGITS},
    ),
    "deepseek_v2": (
        "DeepseekV2Config",
        "DeepseekV2Moe",
        {**GROUPED, "n_shared_experts": 2, "topk_method": "group_limited_greedy", "routed_scaling_factor": 1.5},
        deepseek_v2,
        {
            "router": {"top_k": 3, "weights": "scores", "scale": 1.5, "groups": 4, "top_groups": 2},
            "shared": glu(2 * HIDDEN),
        },
    ),
    "deepseek_v3": (
        "DeepseekV3Config",
        "DeepseekV3MoE",
        {**GROUPED, **SCALED, "n_shared_experts": 1},
        deepseek_v3,
        {"router": {**SIGMOID, "groups": 4, "top_groups": 2, "group_score": "top2"}, "shared": glu(HIDDEN)},
    ),
    "exaone_moe": (
        "ExaoneMoeConfig",
        "ExaoneMoeSparseMoEBlock",
        {**SCALED, "num_experts": 8, "n_group": 1, "topk_group": 1, "num_shared_experts": 1, "num_hidden_layers": 2},
        deepseek_v3,
        {"router": SIGMOID, "shared": glu(HIDDEN)},
    ),
    "dots1": (
        "Dots1Config",
        "Dots1MoE",
        {**SCALED, "n_routed_experts": 8, "n_group": 1, "topk_group": 1, "n_shared_experts": 2},
        deepseek_v3,
        {"router": SIGMOID, "shared": glu(2 * HIDDEN)},
    ),
    "gpt_oss": (
        "GptOssConfig",
        "GptOssMLP",
        {"num_local_experts": 8, "num_experts_per_tok": 3, "swiglu_limit": 0.7},
        gpt_oss,
        {
            "router": {**OF_LOGITS, "top_k": 3, "bias": True},
            "expert": glu(HIDDEN, bias=True, limit=0.7, up_offset=1.0, **SWISH),
        },
    ),
}
PARTS = {"intermediate_size": HIDDEN, "moe_intermediate_size": HIDDEN}


def theirs(name: str) -> nn.Module:
    """A block of transformers with random weights."""
    config, block, settings, *_ = CASES[name]
    made = getattr(transformers, config)(**BASE, **PARTS, **settings, experts_implementation="eager")
    built: nn.Module = getattr(import_module(f"transformers.models.{name}.modeling_{name}"), block)(made)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*built.parameters(), *built.buffers()):
            tensor.normal_(0.0, 0.2, generator=generator)
    return built.eval()


def ours(name: str, weights: Weights) -> Component:
    *_, rename, settings = CASES[name]
    recipe = {"type": "moe", "experts": EXPERTS, "expert": glu(HIDDEN), **settings}
    block: Component = parse("feedforward", recipe)(Site(dim=DIM))
    block.load_state_dict(rename(weights))
    return block.eval()


@pytest.mark.parametrize("name", CASES)
def test_computes_and_learns_as_the_original_does(name: str) -> None:
    reference = theirs(name)
    block = ours(name, reference.state_dict())
    x = torch.randn(3, 17, DIM, generator=torch.Generator().manual_seed(1))
    y, expected = block(x), reference(x)
    expected = expected[0] if isinstance(expected, tuple) else expected  # some give the weights too
    torch.testing.assert_close(y, expected, rtol=0, atol=2e-5 * float(expected.detach().abs().max()))
    expected.square().sum().backward()
    y.square().sum().backward()
    gradients = {name: torch.zeros_like(buffer) for name, buffer in reference.named_buffers()}
    gradients |= {name: parameter.grad for name, parameter in reference.named_parameters()}
    for key, gradient in CASES[name][3](gradients).items():
        parameter = block.get_parameter(key)
        if parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad, gradient, rtol=0, atol=2e-5 * float(gradient.abs().max()), msg=key
            )


@pytest.mark.parametrize("padded", [False, True])
def test_balance_loss_is_that_of_mixtral(padded: bool) -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    logits = torch.randn(2 * 9, EXPERTS, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9).expand(2, 9) < torch.tensor([[6], [9]]) if padded else None
    expected = load_balancing_loss_func((logits,), EXPERTS, 2, mask)
    flat = torch.ones(18, dtype=torch.bool) if mask is None else mask.flatten()
    share = tokens_per_expert(logits.topk(2).indices, EXPERTS, flat) / flat.sum()
    found = balance_loss(logits.softmax(-1), share, None if mask is None else flat)
    torch.testing.assert_close(found, expected)
