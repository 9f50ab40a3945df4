"""How routers choose experts, and weigh them."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from blocks.base import Site
from blocks.routing.sparse_mixer import SparseMixerRouter
from blocks.routing.top_k import TopKRouter
from registry import parse

DIM, EXPERTS = 24, 6


def router(**settings: Any) -> TopKRouter:
    made = cast("TopKRouter", parse("router", {"type": "top_k", **settings})(Site(dim=DIM, experts=EXPERTS)))
    with torch.no_grad():
        made.linear.weight.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(0))
    return made


def tokens(count: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def test_softmax_then_top_k() -> None:
    x, of = tokens(), router(top_k=2, weights="scores")
    best = of.linear(x).softmax(-1).topk(2)
    weights, chosen = of(x)
    assert torch.equal(chosen, best.indices)
    torch.testing.assert_close(weights, best.values)
    normalised, _ = router(top_k=2, weights="normalised", scale=3.0)(x)
    torch.testing.assert_close(normalised, 3 * best.values / best.values.sum(-1, keepdim=True))


def test_a_router_has_a_norm_of_its_input_a_scale_of_its_logits_and_one_of_each_expert() -> None:
    of = router(norm={"type": "rms", "eps": 0.1}, logit_scale=0.4, expert_scale=True)
    assert of.norm is not None
    assert of.expert_scale is not None
    with torch.no_grad():
        of.expert_scale += torch.rand(of.expert_scale.shape, generator=torch.Generator().manual_seed(2))
    best = (0.4 * of.linear(of.norm(tokens()))).softmax(-1).topk(2)
    weights, chosen = of(tokens())
    assert torch.equal(chosen, best.indices)
    expected = best.values / best.values.sum(-1, keepdim=True) * of.expert_scale[best.indices]
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("settings", [{"weights": "normalised"}, {"weights": "softmax", "scores": "logits"}])
def test_one_expert_a_token_has_weight_1_unless_it_is_its_score(settings: dict[str, str]) -> None:
    weights, _ = router(top_k=1, **settings)(tokens())
    torch.testing.assert_close(weights, torch.ones_like(weights))
    weights, _ = router(top_k=1, weights="scores")(tokens())
    assert weights.unique().numel() > 1


def test_top_k_then_softmax_weighs_as_normalised_softmax_does() -> None:
    x = tokens()
    for ours, theirs in zip(
        router(scores="logits", weights="softmax")(x), router(weights="normalised")(x), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_scores_are_square_roots_of_softplus() -> None:
    x, of = tokens(), router(scores="sqrt_softplus", weights="scores")
    weights, chosen = of(x)
    scores = torch.nn.functional.softplus(of.linear(x)).sqrt()
    torch.testing.assert_close(weights, scores.gather(1, chosen))
    torch.testing.assert_close(weights, scores.topk(weights.shape[1]).values)
    (slope,) = torch.autograd.grad(of(-1e4 * x)[0].sum(), of.linear.weight)
    assert bool(slope.isfinite().all())


def test_a_selection_bias_changes_the_choice_and_no_weight() -> None:
    x, of = tokens(), router(scores="sigmoid", weights="scores", balance_rate=0.0)
    with torch.no_grad():
        assert of.selection_bias is not None
        of.selection_bias[4] = 100.0
    weights, chosen = of(x)
    assert bool((chosen == 4).any(1).all())
    torch.testing.assert_close(weights, of.linear(x).sigmoid().gather(1, chosen))


def test_a_choice_by_logits_adds_the_selection_bias_before_the_function() -> None:
    x, of = tokens(), router(scores="sigmoid", weights="scores", balance_rate=0.0, choose_by="logits")
    by_scores = router(scores="sigmoid", weights="scores", balance_rate=0.0)
    bias = torch.linspace(-1.0, 1.0, EXPERTS)
    with torch.no_grad():
        for one in (of, by_scores):
            assert one.selection_bias is not None
            one.selection_bias.copy_(bias)
    weights, chosen = of(x)
    assert torch.equal(chosen, (of.linear(x) + bias).topk(2).indices)
    torch.testing.assert_close(weights, of.linear(x).sigmoid().gather(1, chosen))
    assert not torch.equal(chosen, by_scores(x)[1])


def test_a_softcap_bounds_the_logits() -> None:
    x, of = tokens(), router(scores="sigmoid", weights="scores", softcap=0.5)
    weights, chosen = of(x)
    torch.testing.assert_close(weights, (0.5 * torch.tanh(of.linear(x) / 0.5)).sigmoid().gather(1, chosen))


@pytest.mark.parametrize("score", ["max", "top2"])
def test_experts_come_from_the_best_groups(score: str) -> None:
    x, of = tokens(200), router(scores="sigmoid", groups=3, top_groups=1, group_score=score)
    pairs = of.linear(x).sigmoid().view(-1, 3, 2)
    best = (pairs.amax(-1) if score == "max" else pairs.sum(-1)).argmax(-1)
    assert torch.equal(of(x)[1] // 2, best[:, None].expand(-1, 2))


def mixed(logits: Tensor, **settings: Any) -> SparseMixerRouter:
    """A router whose logits of the unit vectors are given, (tokens, experts)."""
    site = Site(dim=len(logits), experts=logits.shape[1])
    made = cast("SparseMixerRouter", parse("router", {"type": "sparse_mixer", **settings})(site))
    with torch.no_grad():
        made.linear.weight.copy_(logits.T)
    return made


def test_sparse_mixer_weighs_the_best_among_those_that_are_nearly_as_good() -> None:
    logits = torch.tensor([[1.0, 0.9, 0.5, -3.0], [1.0, 0.1, 0.2, 0.19]])
    weights, chosen = mixed(logits, jitter=0.1).eval()(torch.eye(2))
    assert chosen.tolist() == [[0, 1], [0, 2]]
    share, other = torch.tensor([1.0, 0.9]).softmax(0)[0], torch.tensor([0.2, 0.19]).softmax(0)[0]
    torch.testing.assert_close(weights, torch.tensor([[float(share), 1.0], [1.0, float(other)]]))


def test_sparse_mixer_samples_in_training_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([[1.0, 0.5, 0.3, -3.0]])
    block, x = mixed(logits, top_k=1, jitter=0.3).train(), torch.ones(4000, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights, chosen = block(x)
    shares = torch.bincount(chosen[:, 0], minlength=4) / 4000
    expected = torch.cat([logits[0, :2].softmax(0), torch.zeros(2)])
    torch.testing.assert_close(shares, expected, atol=0.03, rtol=0.0)
    best = weights[chosen == 0]
    torch.testing.assert_close(best, expected[0].expand_as(best))
    others = weights[chosen == 1].detach()
    whole = (others > 0.5 * expected[1]).float()
    assert float(whole.mean()) == pytest.approx(0.25, abs=0.04)
    torch.testing.assert_close(others, expected[1] * (whole + 0.5) / 1.5)


def test_sparse_mixer_has_the_gradient_of_the_probability() -> None:
    logits = torch.tensor([[1.0, 0.9, 0.95, -3.0]])
    block = mixed(logits, top_k=1, jitter=0.1).train()
    weights, chosen = block(torch.ones(1, 1))
    (found,) = torch.autograd.grad(weights.sum(), block.linear.weight)
    known = logits[0, :3].clone().requires_grad_()
    (expected,) = torch.autograd.grad(known.softmax(0)[int(chosen)], known)
    torch.testing.assert_close(found[:, 0], torch.cat([expected, torch.zeros(1)]))


def test_chooses_in_float32_under_autocast_too() -> None:
    x, of = tokens(), router()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights, chosen = of(x)
    assert torch.equal(chosen, of(x)[1])
    assert weights.dtype == torch.float32
