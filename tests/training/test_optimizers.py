"""Optimizers and schedules: every registered one, against independent references."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blockformer import build
from blockformer.errors import UserError
from blockformer.training.optimizers import OPTIMIZER, OptimizerSettings, Sharding
from blockformer.training.optimizers.muon import orthogonal
from registry import entries

OPTIMIZERS, SCHEDULES = list(entries("optimizer")), list(entries("schedule"))
MOE = {
    "type": "moe",
    "experts": 2,
    "expert": {"type": "mlp", "hidden": 16},
    "router": {"top_k": 2},
}
MIXER = {"heads": 4, "qk_norm": "rms", "qk_norm_over": "heads"}
SMALL = {"type": "decoder_only", "dim": 32, "vocab_size": 20, "max_length": 8}


def small(**layer: Any) -> Any:
    return build({**SMALL, "decoder": {"depth": 1, "layer": {"mixer": MIXER, **layer}}})


def given_gradients(model: nn.Module, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw)


def rates(total: int, **settings: Any) -> list[float]:
    chosen = OptimizerSettings(**settings)
    return [chosen.lr * chosen.factor(step, total) for step in range(1, total + 1)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_rises_linearly_to_the_peak_and_stays_within_it(schedule: str) -> None:
    found = rates(200, lr=2.0, warmup_steps=4, schedule=schedule)
    assert found[:4] == [0.5, 1.0, 1.5, 2.0]
    assert all(0 <= rate <= 2.0 for rate in found)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_reads_the_length_of_the_run_only_where_it_says_so(schedule: str) -> None:
    chosen = OptimizerSettings(schedule=schedule)
    short, long = ([chosen.factor(step, total) for step in range(1, 400)] for total in (400, 800))
    assert (short != long) == chosen.schedule.needs_length


def test_cosine_is_halfway_down_in_the_middle_and_ends_at_its_floor() -> None:
    found = rates(110, lr=1.0, warmup_steps=10, schedule="cosine", min_ratio=0.1)
    assert found[59] == pytest.approx(0.55)
    assert found[109] == pytest.approx(0.1)
    assert all(before > after for before, after in pairwise(found[9:]))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_falling_schedule_stays_at_its_floor_after_decay_steps(schedule: str) -> None:
    assert set(rates(30, warmup_steps=0, schedule=schedule, decay_steps=20, min_ratio=0.0)[20:]) == {0.0}


def test_linear_is_a_line() -> None:
    found = rates(110, lr=1.0, warmup_steps=10, schedule="linear", min_ratio=0.0)
    assert found[9:] == pytest.approx([1 - step / 100 for step in range(101)])


def test_inverse_sqrt_is_the_articles_schedule() -> None:
    # Vaswani et al. 2017, equation 3: d^-0.5 * min(step^-0.5, step * warmup^-1.5)
    dim, warmup = 512, 40
    article = [dim**-0.5 * min(step**-0.5, step * warmup**-1.5) for step in range(1, 201)]
    peak = (dim * warmup) ** -0.5
    assert rates(200, lr=peak, warmup_steps=warmup, schedule="inverse_sqrt") == pytest.approx(article)


@pytest.mark.parametrize(("shape", "halfway"), [("linear", 0.5), ("sqrt", 1 - 0.5**0.5)])
def test_wsd_is_stable_and_falls_at_the_end(shape: str, halfway: float) -> None:
    found = rates(100, lr=1.0, warmup_steps=10, schedule="wsd", cooldown_steps=20, shape=shape)
    assert set(found[9:80]) == {1.0}
    assert found[89] == pytest.approx(halfway)
    assert found[99] == 0.0
    assert rates(100, lr=1.0, warmup_steps=0, schedule="wsd", shape=shape) == pytest.approx(
        rates(100, lr=1.0, warmup_steps=0, schedule="wsd", cooldown_steps=20, shape=shape)
    )


def test_phases_follow_each_other_each_as_if_it_were_the_whole_run() -> None:
    phases = ["constant", {"type": "linear", "min_ratio": 0.5}, {"type": "cosine", "min_ratio": 0.0}]
    found = rates(100, lr=1.0, warmup_steps=0, schedule="sequential", phases=phases, lengths=[20, 30])
    assert found[:19] == [1.0] * 19
    assert found[34] == pytest.approx(0.75)
    assert found[74] == pytest.approx(0.5)
    assert found[99] == pytest.approx(0.0)
    with pytest.raises(UserError, match="has 1 numbers for 3 phases: give one fewer"):
        OptimizerSettings(schedule="sequential", phases=phases, lengths=[20])


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"type": "wsd", "decay_steps": 2}, r"optimizer\.phases\.1\.decay_steps: there is no such setting; see"),
        ({"type": "wsd", "shape": "cube"}, r"optimizer\.phases\.1\.shape must be 'linear' or 'sqrt', not \"cube\""),
        ({"min_ratio": 0.1}, r"optimizer\.phases\.1: schedule needs a 'type'; known: constant"),
        (5, r"optimizer\.phases\.1: schedule must be a name or a mapping with its 'type', not 5"),
    ],
)
def test_a_wrong_phase_is_named_by_its_number(phase: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        OptimizerSettings(schedule="sequential", phases=["constant", phase], lengths=[1])


def test_only_matrices_decay_and_a_tied_parameter_counts_once() -> None:
    model = small()
    groups = OptimizerSettings(weight_decay=0.1).parameter_groups(model)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    names = {parameter: name for name, parameter in model.named_parameters()}
    decays, still = ([names[one] for one in group["params"]] for group in groups)
    assert "embedding.tokens.weight" in decays
    assert len(decays) + len(still) == len({*decays, *still}) == len(names)
    assert all(("norm" in name or name.endswith("bias")) for name in still)


def test_biases_of_experts_and_norms_of_single_heads_do_not_decay() -> None:
    model = small(feedforward=MOE)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = OptimizerSettings().parameter_groups(model)
    still = {names[one] for group in groups if not group["weight_decay"] for one in group["params"]}
    assert "decoder.layers.0.feedforward.experts.up.bias" in still
    assert "decoder.layers.0.mixer.q_norm.weight" in still
    assert "decoder.layers.0.feedforward.experts.up.weight" not in still


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    model = small()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    OptimizerSettings(lr=0.5, weight_decay=0.2).make(model, fused=False).step()
    for name, parameter in model.named_parameters():
        vector = "norm" in name or name.endswith("bias")
        torch.testing.assert_close(parameter.detach(), before[name] * (1 if vector else 1 - 0.5 * 0.2))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_restored_state_takes_the_settings_of_today(name: str) -> None:
    model = small()
    old = OptimizerSettings(name, weight_decay=0.5).make(model, fused=False)
    settings = OptimizerSettings(name, weight_decay=0.1, lr=3e-4)
    new = settings.make(model, fused=False)
    new.load_state_dict(old.state_dict())
    assert new.param_groups[0]["weight_decay"] == 0.5
    settings.apply(new, model)
    assert {group["weight_decay"] for group in new.param_groups} == {0.1, 0.0}
    assert {group["peak"] for group in new.param_groups} == {3e-4}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_keeps_what_it_says(name: str) -> None:
    model, settings = small(feedforward=MOE), OptimizerSettings(name)
    optimizer = settings.make(model, fused=False)
    given_gradients(model, 0)
    optimizer.step()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kept = {
                key: tuple(value.shape)
                for key, value in optimizer.state[parameter].items()
                if isinstance(value, Tensor)
            }
            assert kept == settings.optimizer.state_shapes(parameter, matrix=group["matrix"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_from_its_state_as_if_it_had_not_stopped(name: str) -> None:
    settings, models = OptimizerSettings(name, lr=0.01), [small(), small()]
    models[1].load_state_dict(models[0].state_dict())

    def steps(model: nn.Module, optimizer: Any, seeds: range) -> None:
        for seed in seeds:
            if hasattr(optimizer, "begin_step"):
                optimizer.begin_step()
            given_gradients(model, seed)
            optimizer.step()

    steps(models[0], settings.make(models[0], fused=False), range(6))
    first = settings.make(models[1], fused=False)
    steps(models[1], first, range(3))
    second = settings.make(models[1], fused=False)
    second.load_state_dict(first.state_dict())
    steps(models[1], second, range(3, 6))
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_finds_the_minimum_of_a_bowl(name: str) -> None:
    model = small()
    wanted = {parameter: torch.randn_like(parameter) * 0.1 for parameter in model.parameters()}
    optimizer: Any = OptimizerSettings(name, weight_decay=0.0).make(model, fused=False)
    rate = {"adafactor": 0.05, "sgd": 0.1}.get(name, 0.02)

    def distance() -> float:
        return sum((one - target).square().sum().item() for one, target in wanted.items())

    before = distance()
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / 300)
        if hasattr(optimizer, "begin_step"):
            optimizer.begin_step()
        for parameter, target in wanted.items():
            parameter.grad = parameter.detach() - target
        optimizer.step()
    assert distance() < 0.01 * before


def test_muon_is_torchs_where_both_apply() -> None:
    from torch.optim import Muon

    for rows, columns in ((12, 20), (20, 12), (16, 16)):
        for nesterov in (True, False):
            for ours, theirs in (("original", "original"), ("match_rms", "match_rms_adamw")):
                model = nn.Linear(columns, rows, bias=False)
                twin = nn.Linear(columns, rows, bias=False)
                twin.load_state_dict(model.state_dict())
                before = model.weight.detach().clone()
                group = {"params": [model.weight], "lr": 0.02, "weight_decay": 0.1, "matrix": True}
                entry = entries("optimizer")["muon"].block
                made = entry(nesterov=nesterov, scale=ours).make([group], fused=False, sharding=Sharding())  # type: ignore[attr-defined, call-arg]
                other = Muon([twin.weight], lr=0.02, weight_decay=0.1, nesterov=nesterov, adjust_lr_fn=theirs)
                for seed in range(5):
                    given_gradients(model, seed)
                    given_gradients(twin, seed)
                    made.step()
                    other.step()
                apart, moved = (twin.weight - model.weight).norm(), (model.weight - before).norm()
                assert apart < 1e-5 * moved


def test_muon_keeps_its_momentum_where_gradients_have_half_precision() -> None:
    weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.bfloat16))
    group = {"params": [weight], "lr": 1e-3, "weight_decay": 0.0, "matrix": True}
    muon = entries("optimizer")["muon"].block(nesterov=False)  # type: ignore[call-arg]
    optimizer = muon.make([group], fused=False, sharding=Sharding())  # type: ignore[attr-defined]
    weight.grad = torch.full((8, 8), 100.0, dtype=torch.bfloat16)
    optimizer.step()
    assert optimizer.state[weight]["momentum_buffer"].norm().item() == pytest.approx(5 * 8, rel=0.01)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (3, 6, 10), (2, 3, 5, 4)])
def test_newton_schulz_makes_singular_values_about_one(shape: tuple[int, ...]) -> None:
    found = torch.linalg.svdvals(orthogonal(torch.randn(shape), 5).float())
    assert found.min() > 0.3
    assert found.max() < 1.3
    matrices = torch.randn(2, *shape)
    for matrix, one in zip(matrices, orthogonal(matrices, 5), strict=True):
        torch.testing.assert_close(one, orthogonal(matrix, 5), atol=0.02, rtol=0)


def test_muon_takes_hidden_matrices_alone() -> None:
    model = build({**SMALL, "head": "own", "decoder": {"depth": 1, "layer": {"mixer": MIXER, "feedforward": MOE}}})
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = OptimizerSettings("muon").parameter_groups(model)
    matrices = {names[one] for group in groups if group["matrix"] for one in group["params"]}
    layer = "decoder.layers.0."
    projections = [f"{layer}mixer.{name}.weight" for name in ("q", "k", "v", "out")]
    experts = [f"{layer}feedforward.experts.{name}.weight" for name in ("up", "down")]
    assert matrices == {*projections, *experts, f"{layer}feedforward.router.linear.weight"}


def test_muon_takes_the_matrices_of_adapters() -> None:
    adapted = {"adapters": {"*.mixer.[qv]": {"rank": 2}}}
    model = build({**SMALL, "decoder": {"depth": 1, "layer": {"mixer": MIXER}}, **adapted})
    settings = OptimizerSettings("muon")
    settings.choose_trained(model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    matrices = {names[one] for group in settings.parameter_groups(model) if group["matrix"] for one in group["params"]}
    assert matrices == {f"decoder.layers.0.mixer.{name}.adapter.{leaf}" for name in "qv" for leaf in "ab"}


def test_lion_steps_by_the_sign() -> None:
    model = small()
    before = {parameter: parameter.detach().clone() for parameter in model.parameters()}
    given_gradients(model, 1)
    OptimizerSettings("lion", lr=0.01, weight_decay=0.0).make(model, fused=False).step()
    for parameter, old in before.items():
        torch.testing.assert_close(parameter.detach(), old - 0.01 * parameter.grad.sign())  # type: ignore[union-attr]


def test_schedule_free_is_the_average_of_its_iterates() -> None:
    # Defazio et al. 2024, algorithm 1, written out for one number, without decay of weights and without AdamW's scale
    parameter = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    group = {"params": [parameter], "lr": 0.1, "weight_decay": 0.0, "matrix": False}
    block = entries("optimizer")["schedule_free"].block(beta1=0.9, beta2=0.5, eps=1e-8)  # type: ignore[call-arg]
    optimizer: Any = block.make([group], fused=False, sharding=Sharding())  # type: ignore[attr-defined]
    x = z = 1.0
    second = 0.0
    for step in range(1, 8):
        optimizer.begin_step()
        y = 0.1 * z + 0.9 * x
        assert parameter.item() == pytest.approx(y)
        gradient = 2 * y
        parameter.grad = 2 * parameter.detach()
        optimizer.step()
        second = 0.5 * second + 0.5 * gradient**2
        z -= 0.1 * gradient / ((second / (1 - 0.5**step)) ** 0.5 + 1e-8)
        x += (z - x) / step
        assert parameter.item() == pytest.approx(x)


def test_schedule_free_returns_to_its_average_where_a_step_is_skipped() -> None:
    model = small()
    optimizer: Any = OptimizerSettings("schedule_free").make(model, fused=False)
    given_gradients(model, 0)
    optimizer.step()
    given_gradients(model, 1)
    optimizer.begin_step()
    optimizer.step()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.begin_step()
    optimizer.end_step()
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_groups_have_rates_and_decays_of_their_own() -> None:
    model = small()
    groups = [{"match": "decoder.layers.0.mixer.*", "lr": 1e-4}, {"slot": "norm", "weight_decay": 0.3}]
    settings = OptimizerSettings(lr=1e-2, weight_decay=0.1, groups=groups)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[one]: (group["peak"], group["weight_decay"])
        for group in settings.parameter_groups(model)
        for one in group["params"]
    }
    assert len(found) == len(names)
    for name, rate in found.items():
        in_mixer, norm = name.startswith("decoder.layers.0.mixer."), "norm" in name
        vector = norm or name.endswith("bias")
        decay = 0.3 if norm and not in_mixer else 0.0 if vector else 0.1
        assert rate == (1e-4 if in_mixer else 1e-2, decay), name


WRONG_GROUPS = {
    "needs either match or slot": [{"lr": 1.0}],
    "needs lr or weight_decay": [{"match": "*"}],
    "extra inputs are not permitted": [{"match": "*", "lr": 1.0, "x": 1}],
    "input should be greater than 0": [{"match": "*", "lr": 0.0}],
}


@pytest.mark.parametrize("message", WRONG_GROUPS)
def test_groups_are_checked(message: str) -> None:
    with pytest.raises(UserError, match=rf"optimizer\.groups\.0.*{message}"):
        OptimizerSettings(groups=WRONG_GROUPS[message])


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    model = small()
    for group, advice in (
        ({"match": "nothing.*", "lr": 1.0}, r"'nothing\.\*'; one is called"),
        ({"slot": "nothing", "lr": 1.0}, "slot nothing; known: embedding, .*norm"),
    ):
        with pytest.raises(UserError, match=rf"optimizer\.groups: no parameter belongs to {advice}"):
            OptimizerSettings(groups=[group]).parameter_groups(model)
    with pytest.raises(UserError, match=r"optimizer\.freeze: no parameter has a name like 'nothing'; one is called"):
        OptimizerSettings(freeze=["nothing"]).choose_trained(model)
    with pytest.raises(UserError, match="leaves nothing to train"):
        OptimizerSettings(freeze=["*"]).choose_trained(model)


def test_a_group_whose_parameters_are_taken_or_frozen_says_so() -> None:
    groups = [{"slot": "norm", "lr": 1e-3}, {"match": "decoder.norm.*", "lr": 1e-2}]
    with pytest.raises(UserError, match=r"all parameters of 'decoder\.norm\.\*' belong to a group before it"):
        OptimizerSettings(groups=groups).parameter_groups(small())
    OptimizerSettings(groups=groups[::-1]).parameter_groups(small())
    settings, model = OptimizerSettings(groups=groups[1:], freeze=["decoder.norm.*"]), small()
    settings.choose_trained(model)
    with pytest.raises(UserError, match=r"no parameter of 'decoder\.norm\.\*' is trained; remove the group"):
        settings.parameter_groups(model)


def test_frozen_parameters_are_in_no_group() -> None:
    model, settings = small(), OptimizerSettings(freeze=["embedding.*", "*mixer*"])
    settings.choose_trained(model)
    trained = {one for group in settings.parameter_groups(model) for one in group["params"]}
    frozen = {name for name, parameter in model.named_parameters() if parameter not in trained}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("embedding.") or "mixer" in name}


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"warmup_steps": -1}, {"lr": math.nan}, {"weight_decay": -1.0}])
def test_impossible_settings_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} must be"):
        OptimizerSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"beta2": 1.0}, {"min_ratio": 1.5}, {"eps": 0.0}, {"beta1": "x"}, {"beta9": 0.1}])
def test_impossible_settings_of_a_component_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"optimizer\.{next(iter(wrong))}\b"):
        OptimizerSettings(**wrong)


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "constant"])
@pytest.mark.parametrize("idle", [{"min_ratio": 0.1}, {"decay_steps": 500}])
def test_a_setting_that_the_schedule_does_not_read_is_refused(schedule: str, idle: dict[str, float]) -> None:
    (name,) = idle
    with pytest.raises(UserError, match=rf"{name} is a setting of schedule .*'cosine'.* no effect with .*{schedule}"):
        OptimizerSettings(schedule=schedule, **idle)


def test_an_optimizer_that_needs_a_schedule_says_so() -> None:
    assert OptimizerSettings("schedule_free").schedule_name == "constant"
    with pytest.raises(UserError, match=r"optimizer\.schedule cosine: optimizer 'schedule_free' works with constant"):
        OptimizerSettings("schedule_free", schedule="cosine")


@pytest.mark.parametrize("option", OPTIMIZER.slots)
def test_a_component_that_does_not_exist_is_refused_with_the_nearest(option: str) -> None:
    known = next(iter(entries(OPTIMIZER.slots[option])))
    with pytest.raises(UserError, match=rf"optimizer\.{option}: there is no .* did you mean '{known}'"):
        OptimizerSettings(**{option: known[:-1] + "z"})
