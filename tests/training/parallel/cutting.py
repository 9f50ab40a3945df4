"""Blocks cut by tensor parallelism, in processes that meet through a file."""

import copy
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from blockformer.conformance.block_case import BlockCase, registered, small
from blockformer.conformance.example import Example, example, new_cache, run
from blockformer.conformance.variants import allowed, variants
from blockformer.errors import UserError
from blockformer.training.parallel.plan import Plan, apply_plan, make_plan
from blockformer.training.parallel.shards import DATA, TENSOR, Shards
from blocks.base import Component
from registry import entries

PARTS = 2
TOGETHER = (
    {"kv_heads": 2, "heads": 4, "sinks": True, "bias": True, "gate": "silu", "softcap": 2.0, "positions": "alibi"},
    {"qk_norm": "rms", "qk_norm_over": "heads", "qk_norm_after": True, "positions": "rotary"},
    {"qk_norm": "dynamic_tanh", "qk_norm_over": "heads", "positions": "t5", "backend": "eager"},
    {"qk_norm": {"type": "layer", "bias": True}, "positions": "t5", "clip": 0.5},
    {"heads": 4, "kv_heads": 2, "value_dim": 6, "v_norm": "rms", "gate": "softplus", "gate_over": "head"},
    {"heads": 4, "qk_rank": 12, "qk_rank_norm": "rms"},
    {
        "shared_kv": True,
        "out_norm": "layer",
        "out_norm_over": "heads",
        "positions": {"type": "rotary", "reverse": True},
    },
)
ADAPTED_STACKS: dict[str, dict[str, Any]] = {
    "attention": {"mixer": {"type": "attention", "heads": 4, "kv_heads": 2, "bias": True, "gate": "silu"}},
    "latent, experts": {"mixer": {"type": "latent", "heads": 4, "q_rank": 12}, "feedforward": "moe"},
    "linear, mlp experts": {"mixer": "linear", "feedforward": {"type": "moe", "expert": "mlp"}},
}
WIRINGS: tuple[dict[str, Any], ...] = (
    {"type": "parallel"},
    {"type": "shortcut"},
    {"residual": {"type": "hyper"}},
    {"residual": {"type": "layerscale"}, "feedforward": {"type": "moe", "experts": 2}, "output_scale": True},
)
CROSS = ({"kv_heads": 2, "heads": 4, "sinks": True, "bias": True, "gate": "silu", "qk_norm": "rms", "clip": 0.5},)


def cuttable() -> list[BlockCase]:
    """Every registered block that can be cut or holds one that can, and those that declare it with other options."""
    found = registered("blocks")
    declaring = [one for one in found if entries(one.slot)[one.name].block.capabilities.shards or one.name == "moe"]
    found += [variant for one in declaring for variant in variants(one)]
    found += [BlockCase("mixer", "attention", options) for options in TOGETHER]
    found += [BlockCase("mixer", "cross_attention", options, "cross") for options in CROSS]
    found += [
        BlockCase("feedforward", "moe", {"expert": "mlp", "shared": "glu", "shared_gate": True}),
        BlockCase("mixer", "latent", {"q_rank": 12, "bias": ["q", "k", "v", "k_rotary", "out"], "positions": "t5"}),
        BlockCase(
            "mixer", "latent", {"gate": "sigmoid", "sinks": True, "rotary_norm": "rms", "q_scale": 1.5, "kv_scale": 2.0}
        ),
        BlockCase("feedforward", "mlp", {"activation": "xielu"}),
        BlockCase("stack", "layers", {"depth": 2, "positions": {"type": "t5", "heads": 8}}),
        *(_adapted(name, layer) for name, layer in ADAPTED_STACKS.items()),
        *(BlockCase("stack", "layers", {"depth": 2, "layer": layer}) for layer in WIRINGS),
    ]
    return [one for one in found if allowed(one) and _plan(one) is not None]


def _adapted(name: str, layer: dict[str, Any]) -> BlockCase:
    """A model with an adapter around every projection."""
    sizes = small("model", "decoder_only").params
    adapters = {"*": {"type": "lora", "rank": 3}}
    params = {**sizes, "adapters": adapters, "decoder": {"depth": 1, "layer": layer}}
    return BlockCase("model", "decoder_only", params, label=f"adapted: {name}")


def _plan(case: BlockCase) -> Plan | None:
    with torch.device("meta"):
        block = case.construct()
    try:
        return make_plan(block, PARTS) if isinstance(block, Component) else None
    except UserError:
        return None


def key(case: BlockCase, tokens: bool) -> str:
    """The name of a case, cut with its tokens split between sublayers or not."""
    return f"{case.id}, tokens split" if tokens else case.id


def has_stack(case: BlockCase) -> bool:
    """Whether the tokens of the case can be split between sublayers."""
    return case.slot in ("stack", "model")


def check_gives_the_same_when_cut(case: BlockCase, mesh: DeviceMesh, *, tokens: bool = False) -> None:
    """Values, what decoding gives, and gradients by inputs and parameters are those of the uncut block in float64."""
    whole, given = case.build_perturbed(), example(case)
    cut, made = copy.deepcopy(whole), make_plan(whole, PARTS, tokens=tokens)
    apply_plan(made, cut, mesh)
    shards = Shards(mesh, made.cuts, frozenset(made.partial))
    with torch.no_grad():
        for name, parameter in cut.named_parameters():
            parameter.copy_(shards.part(name, whole.get_parameter(name), parameter))
    assert all(cut.get_parameter(name).shape != whole.get_parameter(name).shape for name in made.cuts)
    ours = [*_results(cut, given, shards), *_decoded(cut, case, given)]
    theirs = [*_results(whole, given, None), *_decoded(whole, case, given)]
    for (what, value), (_, expected) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            value, expected, rtol=1e-9, atol=1e-11, msg=lambda text, what=what: f"{what}: {text}"
        )


def _results(block: Component, given: Example, shards: Shards | None) -> Iterator[tuple[str, Tensor]]:
    leaves = {
        key: value.clone().requires_grad_()
        for key, value in (("x", given.x), ("memory", given.memory))
        if value is not None and value.is_floating_point()
    }
    y = run(block, Example(**{"x": given.x, "memory": given.memory, **leaves}))
    yield "the result", y
    y.backward(torch.linspace(-1.0, 1.0, y.numel(), dtype=y.dtype).sin().view_as(y))
    for key, leaf in leaves.items():
        assert leaf.grad is not None
        yield f"the gradient by {key}", leaf.grad
    if shards is not None:
        shards.add_partial(block)
    for name, parameter in block.named_parameters():
        if parameter.grad is not None:
            yield f"the gradient of {name}", parameter.grad if shards is None else shards.whole(name, parameter.grad)


@torch.no_grad()
def _decoded(block: Component, case: BlockCase, given: Example) -> list[tuple[str, Tensor]]:
    if case.slot not in ("mixer", "model") or case.place != "causal":
        return []
    cache, spans = new_cache(block), ((0, 3), (3, 4), (4, 5))
    return [
        (f"tokens {start} to {stop} from a cache", run(block, given.span(start, stop), cache)) for start, stop in spans
    ]


def work(rank: int, folder: str) -> None:
    """One of the processes; the first one writes what is wrong with each block, nothing if nothing is."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", world_size=PARTS, rank=rank)
    mesh = init_device_mesh("cpu", (1, PARTS), mesh_dim_names=(DATA, TENSOR))
    found: dict[str, str] = {}
    pairs = [(case, tokens) for case in cuttable() for tokens in ((False, True) if has_stack(case) else (False,))]
    for case, tokens in pairs:
        try:
            check_gives_the_same_when_cut(case, mesh, tokens=tokens)
            found[key(case, tokens)] = ""
        except Exception:
            found[key(case, tokens)] = traceback.format_exc()
    wrong: list[dict[str, str]] = [{} for _ in range(PARTS)]
    dist.all_gather_object(wrong, found)
    if rank == 0:
        both = {name: "".join(one[name] for one in wrong) for name in found}
        Path(folder, "found.json").write_text(json.dumps(both))
    dist.destroy_process_group()
