"""Axes that blocks declare, against the shapes of wider models, and the init mup."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn

import blockformer as bf
from blockformer.assembly import check
from blocks.base import FeedForward, Linear, Site
from blocks.init.width import UndeclaredAxesError, width_multipliers
from blocks.models.base import Model
from registry import RecipeError, entries, load_recipe

BASE, WIDE = 96, 192  # GLU and latent attention round their widths; not here
SMALL: Mapping[str, Any] = {"vocab_size": 40, "max_length": 16}
MUP = {"type": "mup", "base_width": BASE}
MOE = {"type": "moe", "experts": 4, "shared": "mlp", "shared_gate": True, "router": {"bias": True, "balance_rate": 0.1}}
FACTORISED = {
    "embedding": {"width": 16, "segments": 2, "positions": "learned"},
    "head": {"type": "own", "transform": "mlm"},
}
LAYERS: Mapping[str, Mapping[str, Any]] = {
    "everything in an attention": {
        "mixer": {"bias": True, "sinks": True, "gate": "silu", "qk_norm": "layer", "positions": "t5", "kv_heads": 2}
    },
    "norms of each head": {"mixer": {"qk_norm": "layer", "qk_norm_over": "heads"}},
    "a norm of all heads": {"mixer": {"qk_norm": "scale", "qk_norm_over": "projection"}},
    "norms of outputs and hidden units": {
        "mixer": {"out_norm": "rms", "gate": "softplus"},
        "feedforward": {"type": "mlp", "inner_norm": "layer"},
    },
    "norms of values and of each head's outputs": {
        "mixer": {"v_norm": "rms", "out_norm": "layer", "out_norm_over": "heads"}
    },
    "latents for queries": {"mixer": {"type": "latent", "q_rank": 24, "bias": True}},
    "experts": {"feedforward": MOE},
    "experts between norms": {
        "feedforward": {
            "type": "moe",
            "bias": True,
            "norm": "layer",
            "out_norm": "rms",
            "shared": "normed",
            "router": {"norm": "rms", "expert_scale": True},
        }
    },
    "important keys": {"mixer": {"type": "dynamic_mask", "kv_heads": 2, "bias": True, "qk_norm": "rms"}},
    "experts of heads": {"mixer": {"type": "routed_attention", "kv_heads": 2, "bias": True}},
    "weights of stream and branch": {"residual": {"type": "weighted", "branch": True, "shift": True}},
    "a scaled layer": {"output_scale": True},
    "macaron": {"type": "parallel"},
}


class Undeclared(FeedForward):
    """Two projections whose axes it does not declare."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.up = Linear(site, site.dim, 3 * site.dim)
        self.down = Linear(site, 3 * site.dim, site.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x).relu())


BLOCKS = {"undeclared": Undeclared}


def biased(head: str) -> Mapping[str, Any]:
    return {"bias": True} if "bias" in entries("head")[head].parameters else {}


def recipes() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A recipe with each registered block that has parameters, and some with many options."""
    for slot in ("mixer", "feedforward", "residual"):
        yield from ((f"{slot} {name}", {"layer": {slot: name}}) for name in entries(slot))
    yield from ((f"layer {name}", {"layer": {"type": name}}) for name in entries("layer"))
    yield from ((f"norm {name}", {"norm": name}) for name in entries("norm"))
    yield from ((f"head {name}", {"head": {"type": name} | biased(name)}) for name in entries("head"))
    yield from ((f"positions {name}", {"embedding": {"positions": name}}) for name in entries("input_positions"))
    yield from ((f"adapter {name}", {"adapters": {"*": name}}) for name in entries("adapter"))
    yield from ((name, {"layer": layer}) for name, layer in LAYERS.items())
    yield "adapted experts", {"layer": {"feedforward": MOE}, "adapters": {"*": "lora"}}
    yield "factorised", FACTORISED
    yield "encoder-decoder", {"type": "encoder_decoder"}


def model(parts: Mapping[str, Any], dim: int, init: Mapping[str, Any] = MUP) -> Model:
    """On meta, in the kind of model that the parts fit into."""
    of_stack = {key: parts[key] for key in ("layer", "norm") if key in parts}
    rest = {key: value for key, value in parts.items() if key not in of_stack}
    common = {**SMALL, "dim": dim, "init": init, **rest}
    kinds = [rest["type"]] if "type" in rest else ["decoder_only", "encoder_only", "encoder_decoder"]
    for kind in kinds:
        stacks = ("encoder", "decoder") if kind == "encoder_decoder" else (kind.removesuffix("_only"),)
        recipe = {**common, "type": kind, **{stack: {"depth": 1, **of_stack} for stack in stacks}}
        if kind == "encoder_decoder" and "mixer" in of_stack.get("layer", {}):
            recipe["decoder"] = {"depth": 1, "layer": {"cross": of_stack["layer"]["mixer"]}}
            recipe["encoder"] = {"depth": 1}
        try:
            return check(load_recipe(recipe))
        except RecipeError as error:
            last = error
    raise last


@pytest.mark.parametrize("parts", [pytest.param(parts, id=name) for name, parts in recipes()])
def test_axes_grow_as_the_shapes_of_a_model_of_twice_the_width(parts: Mapping[str, Any]) -> None:
    scaled = {"type": "latent", "q_rank": 48, "bias": True}  # a given size grows with the others of a family
    wider = {"layer": {"mixer": scaled}} if parts == {"layer": LAYERS["latents for queries"]} else parts
    base, wide = model(parts, BASE), model(wider, WIDE)
    shapes = {name: one.shape for name, one in base.named_parameters()}
    for name, width in width_multipliers(wide).items():
        shape = wide.get_parameter(name).shape
        ratios = [new / old for new, old in zip(shape, shapes[name], strict=True)]
        assert len(width.axes) == len(shape), name
        of_heads = ("sinks", "content_bias", "position_bias", ".a1", ".b1", ".a2", ".b2", ".rate")
        if name.endswith(of_heads) or ".importance." in name:
            continue  # of each head: whether more heads or wider heads make a model wider is not declared
        per_head = "norm" in name
        assert ratios[-1:] == list(width.axes[-1:]) if per_head else ratios == list(width.axes), name
        assert per_head or width.base_shape(shape) == shapes[name], name
    assert {one.fan_in for one in width_multipliers(base).values()} == {1.0}


@pytest.mark.parametrize("inner", [name for name in entries("init") if name != "mup"])
@pytest.mark.parametrize("recipe", ["tiny_decoder", "tiny_encoder_decoder", "tiny_experts", "tiny_hybrid"])
def test_at_the_base_width_initial_values_are_those_of_the_inner_init(recipe: str, inner: str) -> None:
    plain = bf.build(recipe, {"init": inner}, seed=3)
    ours = bf.build(recipe, {"init": {"type": "mup", "base_width": plain.dim, "inner": inner}}, seed=3)
    for (name, one), other in zip(plain.named_parameters(), ours.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("inner", ["normal", "xavier", "depth_scaled"])
@pytest.mark.parametrize("multiplier", [0.5, 4.0])
def test_initial_values_have_the_deviations_of_table_3(inner: str, multiplier: float) -> None:
    def deviations(dim: int, init: Mapping[str, Any]) -> dict[str, float]:
        recipe = {"type": "decoder_only", **SMALL, "dim": dim, "init": init, "head": "own", "decoder": {"depth": 1}}
        built: nn.Module = bf.build(recipe)
        return {name: float(one.detach().square().mean().sqrt()) for name, one in built.named_parameters()}

    init = {"type": "mup", "base_width": BASE, "inner": inner}
    base, wide = deviations(BASE, init), deviations(int(multiplier * BASE), init)
    matrices = {name for name in base if name.startswith("decoder.layers") and name.endswith("weight")} - {
        name for name in base if "norm" in name
    }
    wanted = {name: multiplier ** (-0.5 if name in matrices else -1 if "head" in name else 0) for name in base}
    found = {name: wide[name] / base[name] for name in base if base[name]}
    assert found == pytest.approx({name: wanted[name] for name in found}, rel=0.1)
    assert {"embedding.tokens.weight", "head.project.weight"} < found.keys()


@pytest.mark.parametrize(
    ("mixer", "scale"),
    [
        ({"heads": 4}, 24**-0.5 / 2),  # 1 / sqrt(width of a head) at the base, then 1 / width
        ({"heads": 8, "head_dim": 12}, 12**-0.5),
        ({"heads": 4, "scale": 0.1}, 0.05),
        ({"heads": 4, "head_dim": 24, "scale": 0.1}, 0.1),
        ({"type": "latent", "heads": 4}, 36**-0.5 / 2),  # 24 + 12 rotated channels
    ],
)
def test_scores_are_divided_by_the_width_where_heads_grow(mixer: Mapping[str, Any], scale: float) -> None:
    wide: Any = model({"layer": {"mixer": mixer}}, WIDE)
    assert wide.decoder.layers[0].mixer.scale == pytest.approx(scale)


def test_constants_of_the_width_are_those_of_the_base() -> None:
    parts = {"embedding": {"scale": "sqrt_dim"}, "head": {"type": "tied", "scale": "inverse_sqrt_dim"}, "norm": "scale"}
    base: Any = model(parts, BASE)
    wide: Any = model(parts, WIDE)
    assert wide.embedding.scale == base.embedding.scale == BASE**0.5
    assert wide.head.logit_scaling.scale == base.head.logit_scaling.scale / 2  # the output multiplier of a tied table
    assert wide.decoder.norm.initial * wide.decoder.norm.factor == pytest.approx(WIDE**0.5)
    own: Any = model({"head": {"type": "own", "scale": "inverse_sqrt_dim"}}, WIDE)
    assert own.head.logit_scaling.scale == BASE**-0.5


def test_the_axes_of_every_parameter_must_be_declared() -> None:
    recipe = {
        "type": "decoder_only",
        **SMALL,
        "dim": 32,
        "decoder": {"depth": 1, "layer": {"feedforward": "undeclared"}},
    }
    assert bf.build(recipe).size
    with pytest.raises(RecipeError) as refused:
        bf.build(recipe | {"init": "mup"})
    assert "init: no block declares the axes of decoder.layers.0.feedforward.up.weight and 3 more" in str(refused.value)
    assert "name them in Undeclared.axes(), with None" in str(refused.value)
    with pytest.raises(UndeclaredAxesError):
        width_multipliers(bf.build(recipe))


def test_a_width_transfer_init_inside_another_is_refused() -> None:
    recipe = load_recipe("tiny_decoder", {"init": {"type": "mup", "inner": "mup"}})
    with pytest.raises(RecipeError, match=r"init: inner has a base width of its own"):
        check(recipe)
