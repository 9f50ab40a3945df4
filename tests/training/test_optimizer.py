import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from blockformer import build
from blockformer.errors import UserError
from blockformer.training.optimizer import (
    OptimizerSettings,
    apply_settings,
    decay_groups,
    learning_rate,
    make_optimizer,
)


def rates(total: int, **settings: object) -> list[float]:
    chosen = OptimizerSettings(**settings)  # type: ignore[arg-type]
    return [learning_rate(chosen, step, total) for step in range(1, total + 1)]


def test_every_schedule_rises_linearly_to_the_peak() -> None:
    for schedule in ("cosine", "inverse_sqrt", "constant"):
        assert rates(20, lr=2.0, warmup_steps=4, schedule=schedule)[:4] == [0.5, 1.0, 1.5, 2.0]


def test_cosine_is_halfway_down_in_the_middle_and_ends_at_its_floor() -> None:
    found = rates(110, lr=1.0, warmup_steps=10, schedule="cosine", min_ratio=0.1)
    assert found[59] == pytest.approx(0.55)
    assert found[109] == pytest.approx(0.1)
    assert all(before > after for before, after in pairwise(found[9:]))


def test_cosine_stays_at_its_floor_after_decay_steps() -> None:
    assert set(rates(30, warmup_steps=0, decay_steps=20, min_ratio=0.0)[20:]) == {0.0}


def test_inverse_sqrt_is_the_articles_schedule() -> None:
    # Vaswani et al. 2017, equation 3: d^-0.5 * min(step^-0.5, step * warmup^-1.5)
    dim, warmup = 512, 40
    article = [dim**-0.5 * min(step**-0.5, step * warmup**-1.5) for step in range(1, 201)]
    peak = (dim * warmup) ** -0.5
    assert rates(200, lr=peak, warmup_steps=warmup, schedule="inverse_sqrt") == pytest.approx(article)


def test_only_matrices_decay_and_a_tied_parameter_counts_once() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(7, 4), "norm": nn.LayerNorm(4), "head": nn.Linear(4, 7)})
    model["head"].weight = model["embedding"].weight
    matrices, others = decay_groups(model, 0.1)
    assert [parameter.shape for parameter in matrices["params"]] == [(7, 4)]
    assert [tuple(parameter.shape) for parameter in others["params"]] == [(4,), (4,), (7,)]
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone(), model.bias.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer(model, OptimizerSettings(lr=0.5, weight_decay=0.2), fused=False).step()
    torch.testing.assert_close(model.weight.detach(), before[0] * (1 - 0.5 * 0.2))
    torch.testing.assert_close(model.bias.detach(), before[1])


def test_restored_state_takes_the_settings_of_today() -> None:
    model = nn.Linear(2, 2)
    old = make_optimizer(model, OptimizerSettings(weight_decay=0.5, beta2=0.9), fused=False)
    new = make_optimizer(model, OptimizerSettings(weight_decay=0.1, beta2=0.99), fused=False)
    new.load_state_dict(old.state_dict())
    assert new.param_groups[0]["weight_decay"] == 0.5
    apply_settings(new, OptimizerSettings(weight_decay=0.1, beta2=0.99))
    assert [group["weight_decay"] for group in new.param_groups] == [0.1, 0.0]
    assert new.param_groups[0]["betas"] == (0.9, 0.99)


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"beta2": 1.0}, {"min_ratio": 1.5}, {"warmup_steps": -1}, {"lr": math.nan}]
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} cannot be"):
        OptimizerSettings(**wrong)  # type: ignore[arg-type]


def test_biases_of_experts_and_norms_of_single_heads_do_not_decay() -> None:
    mixer = {"heads": 4, "qk_norm": "rms", "qk_norm_over": "heads"}
    moe = {"type": "moe", "experts": 2, "expert": {"type": "mlp", "hidden": 16}, "router": {"top_k": 2}}
    layer = {"mixer": mixer, "feedforward": moe}
    model = build({"type": "decoder_only", "dim": 32, "vocab_size": 20, "decoder": {"depth": 1, "layer": layer}})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    still = {names[id(p)] for group in decay_groups(model, 0.1) if not group["weight_decay"] for p in group["params"]}
    assert "decoder.layers.0.feedforward.experts.up.bias" in still
    assert "decoder.layers.0.mixer.q_norm.weight" in still
    assert "decoder.layers.0.feedforward.experts.up.weight" not in still


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "constant"])
@pytest.mark.parametrize("idle", [{"min_ratio": 0.1}, {"decay_steps": 500}])
def test_a_setting_that_the_schedule_does_not_read_is_refused(schedule: str, idle: dict[str, float]) -> None:
    (name,) = idle
    with pytest.raises(UserError, match=rf"{name} .* has no effect with schedule {schedule}, only with cosine"):
        OptimizerSettings(schedule=schedule, **idle)  # type: ignore[arg-type]


def test_min_ratio_has_a_value_only_where_it_is_read() -> None:
    assert OptimizerSettings().min_ratio == 0.1
    assert OptimizerSettings(schedule="constant").min_ratio is None
