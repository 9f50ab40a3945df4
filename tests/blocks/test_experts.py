"""The mixture of experts."""

from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import blockformer as bf
from blockformer.conformance import BlockCase, parametrize_checks
from blockformer.conformance.block_case import small
from blockformer.conformance.checks.shapes import check_bfloat16_matches_float64
from blocks.base import Component, Expert, FeedForward, Linear, Site
from blocks.feedforward.moe import MixtureOfExperts
from blocks.init.keyed import initialise
from blocks.init.schemes import DepthScaled, Xavier
from registry import Positive, RecipeError, load_recipe, parse

torch.set_num_threads(1)
DIM = 24
SMALL = {"type": "glu", "hidden": 40}
KINDS: dict[str, Mapping[str, Any]] = {
    "gated": {"expert": SMALL},
    "plain, with biases": {"expert": {"type": "mlp", "hidden": 40, "bias": ("up",)}, "router": {"bias": True}},
    "shared": {"expert": SMALL, "shared": {"type": "mlp", "hidden": 20}, "shared_gate": True},
    "sigmoid, groups": {
        "expert": SMALL,
        "router": {"scores": "sigmoid", "groups": 3, "top_groups": 2, "group_score": "top2"},
    },
    "normed inside": {"expert": {**SMALL, "inner_norm": {"type": "rms", "weight": False}}},
    "top-k, then softmax": {"expert": SMALL, "router": {"scores": "logits", "weights": "softmax", "top_k": 3}},
}


def moe(kind: str = "gated", **more: Any) -> MixtureOfExperts:
    block = parse("feedforward", {"type": "moe", "experts": 6, **KINDS[kind], **more})(Site(dim=DIM))
    with torch.no_grad():
        for index, parameter in enumerate(block.parameters()):
            parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(index))
    return block.eval()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(seed))


def alone(block: MixtureOfExperts, kind: str, expert: int) -> Component:
    """One expert as a feed-forward of its own."""
    made: Component = parse("feedforward", KINDS[kind]["expert"])(Site(dim=DIM))
    made.load_state_dict({name: value[expert] for name, value in block.experts.state_dict().items()})
    return made.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_gives_what_a_loop_over_tokens_gives(kind: str) -> None:
    block, x = moe(kind), tokens(2, 7)
    experts = [alone(block, kind, expert) for expert in range(6)]
    expected = torch.zeros_like(x)
    for row in range(2):
        for time in range(7):
            token = x[row, time]
            weights, chosen = block.router(token[None])
            assert len(set(chosen[0].tolist())) == block.router.top_k
            for weight, expert in zip(weights[0], chosen[0], strict=True):
                expected[row, time] += weight * experts[int(expert)](token)
    if block.shared is not None and block.shared_gate is not None:
        expected += torch.sigmoid(block.shared_gate(x)) * block.shared(x)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("experts", [1, 4])
def test_equal_experts_that_are_all_chosen_are_one_feed_forward(experts: int) -> None:
    block = moe(experts=experts, router={"top_k": experts})
    with torch.no_grad():
        for parameter in block.experts.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    torch.testing.assert_close(block(tokens(2, 5)), alone(block, "gated", 0)(tokens(2, 5)))


@pytest.mark.parametrize("kind", ["plain, with biases", "shared", "top-k, then softmax"])
def test_the_order_of_the_experts_does_not_matter(kind: str) -> None:
    block, other, order = moe(kind), moe(kind), torch.tensor([3, 0, 5, 1, 4, 2])
    moved = {k: v[order] if k.startswith(("experts.", "router.")) else v for k, v in block.state_dict().items()}
    other.load_state_dict(moved)
    torch.testing.assert_close(other(tokens(2, 9)), block(tokens(2, 9)))


def test_every_expert_learns() -> None:
    block = moe()
    for seed in range(10):
        block(tokens(2, 8, seed=seed)).square().sum().backward()
    for name, parameter in block.experts.named_parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.flatten(1).any(1).all()), f"some expert's {name} never has a gradient"


def test_only_the_chosen_experts_cost() -> None:
    counted: dict[int, int] = {}
    for experts in (6, 60):
        block = moe(experts=experts)
        with FlopCounterMode(display=False) as counter:
            block(tokens(2, 8))
        counted[experts] = counter.get_total_flops()
        assert block.flops_per_token(8) * 16 == counted[experts]
    assert counted[60] - counted[6] == 16 * 2 * DIM * 54, "of more experts, only choosing among them costs more"
    assert counted[6] == 16 * (2 * 3 * 2 * DIM * 40 + 2 * DIM * 6)


class Bilinear(Expert):
    """down(a(x) * b(x))

    Args:
        hidden: width.
    """

    def __init__(self, site: Site, *, hidden: Positive = 16) -> None:
        super().__init__(site)
        self.a, self.b = Linear(site, site.dim, hidden), Linear(site, site.dim, hidden)
        self.down = Linear(site, hidden, site.dim)

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        return self.down(self.a(x, offsets) * self.b(x, offsets), offsets)


class Unaware(FeedForward):
    """A feed-forward that has never heard of experts."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.w = nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w(x)


BLOCKS = {"bilinear_for_test": Bilinear, "unaware_for_test": Unaware}


def recipe(feedforward: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    layer = {"feedforward": {"type": "moe", "experts": 6, **feedforward}, "mixer": {"heads": 4}}
    decoder = {"depth": 2, "layer": layer}
    return {"type": "decoder_only", "dim": DIM, "vocab_size": 50, "max_length": 16, "decoder": decoder, **more}


def test_a_feed_forward_of_someone_else_can_be_an_expert() -> None:
    block = moe(expert={"type": "bilinear_for_test"})
    assert {name: tuple(p.shape) for name, p in block.experts.named_parameters()} == {
        **{f"{name}.weight": (6, 16, DIM) for name in "ab"},
        **{f"{name}.bias": (6, 16) for name in "ab"},
        "down.weight": (6, DIM, 16),
        "down.bias": (6, DIM),
    }
    assert block(tokens(2, 5)).shape == (2, 5, DIM)


@pytest.mark.parametrize(
    ("feedforward", "where", "why"),
    [
        (
            {"expert": "unaware_for_test"},
            "feedforward.expert",
            "'unaware_for_test' does not work as one of several experts",
        ),
        ({"expert": "none"}, "feedforward.expert", "'none' does not work as one of several experts"),
        (
            {"expert": "moe"},
            "feedforward.expert",
            "'moe' does not work as one of several experts, which feedforward 'moe'",
        ),
        ({"shared_gate": True}, "feedforward", "shared_gate needs a shared"),
        ({"router": {"top_k": 7}}, "feedforward.router", "top_k=7 is more than the 6 experts"),
        ({"router": {"groups": 4}}, "feedforward.router", "experts=6 is not a multiple of groups=4"),
        ({"router": {"groups": 2, "top_groups": 3}}, "feedforward.router", "top_groups=3 is more than groups=2"),
        ({"router": {"groups": 3, "top_groups": 1, "top_k": 3}}, "feedforward.router", "than the 2 experts"),
        ({"router": {"groups": 6, "top_groups": 3, "group_score": "top2"}}, "feedforward.router", "groups of two"),
        ({"router": {"scores": "logits"}}, "feedforward.router", "weights=normalised"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name(feedforward: Mapping[str, Any], where: str, why: str) -> None:
    with pytest.raises(RecipeError) as caught:
        bf.check(load_recipe(recipe(feedforward)))
    problems = [str(problem) for problem in caught.value.problems]
    assert len(problems) == 1
    assert f"decoder.layer.{where}: " in problems[0]
    assert why in problems[0]


def test_a_shared_feed_forward_that_is_none_adds_nothing() -> None:
    torch.testing.assert_close(moe(shared="none")(tokens(2, 5)), moe()(tokens(2, 5)))


def test_each_expert_starts_as_it_would_alone() -> None:
    block = parse("feedforward", {"type": "moe", "experts": 6, "expert": SMALL})(Site(dim=DIM, depth=8))
    initialise(block, Xavier(), seed=0)
    for name, weight in block.experts.named_parameters():
        bound = (6 / (DIM + 40)) ** 0.5
        assert 0.95 * bound < float(weight.detach().abs().max()) <= bound, name
    initialise(block, DepthScaled(std=0.02), seed=0)
    assert float(block.experts.up.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(block.experts.down.weight.detach().std()) == pytest.approx(0.02 / 4, rel=0.1), "8 layers, 16 sublayers"


def test_a_limited_glu_cuts_off_before_it_multiplies() -> None:
    block = parse("feedforward", {**SMALL, "limit": 0.5, "up_offset": 1.0, "bias": ("gate",)})(Site(dim=DIM))
    assert [name for name, _ in block.named_parameters()] == ["gate.weight", "gate.bias", "up.weight", "down.weight"]
    x = 9 * tokens(2, 5)
    gate, up = block.gate(x).clamp(max=0.5), block.up(x).clamp(-0.5, 0.5)
    torch.testing.assert_close(block(x), block.down(F.silu(gate) * (up + 1)))


def test_a_norm_with_weights_inside_experts_is_refused() -> None:
    with pytest.raises(ValueError, match="inner_norm has parameters"):
        moe(expert={**SMALL, "inner_norm": "rms"})


VARIANTS = [
    *(BlockCase("feedforward", "moe", {**settings, "experts": 6}) for settings in KINDS.values()),
    BlockCase("router", "top_k", {"scores": "sigmoid", "weights": "scores", "bias": True, "scale": 2.0}),
]
LAYERS = {"depth": 2, "layer": {"feedforward": {"type": "moe", "expert": SMALL}}}


@pytest.mark.slow
@parametrize_checks(VARIANTS)
def test_variants_conform(case: BlockCase, check: Any) -> None:
    check(case)


# rounded to 16 bits, the mixer gives a second layer's router inputs that may choose otherwise
@parametrize_checks(
    [small("model", "decoder_only").put(("decoder",), LAYERS)], without=[check_bfloat16_matches_float64]
)
def test_a_model_of_experts_conforms(case: BlockCase, check: Any) -> None:
    check(case)


def test_layers_with_and_without_experts_mix() -> None:
    layers = {"dense": {"feedforward": "glu", "mixer": {"heads": 4}}, "sparse": {"like": "dense", "feedforward": "moe"}}
    plan = {"depth": 4, "layers": layers, "first": ["dense"], "pattern": ["sparse"]}
    model = cast("Any", bf.build(recipe({}, decoder=plan)))
    kinds = [type(layer.feedforward).__name__ for layer in model.decoder.layers]
    assert kinds == ["GLU", "MixtureOfExperts", "MixtureOfExperts", "MixtureOfExperts"]
