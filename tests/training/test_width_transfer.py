"""Learning rates of models whose init has a base width: the rules of muP, and what they are for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blockformer as bf
from blockformer.errors import UserError
from blockformer.huggingface import ExportError, family_for
from blockformer.training.optimizers import OptimizerSettings
from registry import entries, load_recipe
from tests.training.test_resume import same, state

BASE, WIDE = 32, 256
VOCABULARY = 30
RATES = {"adamw": 4e-3, "lion": 2e-3, "sgd": 0.1, "muon": 4e-3, "schedule_free": 4e-3}


def recipe(dim: int, *, mup: bool, head: str = "tied", **mixer: Any) -> dict[str, Any]:
    init: Any = {"type": "mup", "base_width": BASE, "inner": {"std": 0.1}} if mup else {"type": "normal", "std": 0.1}
    layer = {"mixer": {"heads": 4, "bias": True, **mixer}, "feedforward": "mlp", "residual": {"norm": "rms"}}
    stack = {"depth": 2, "layer": layer, "norm": "rms"}
    sizes = {"dim": dim, "vocab_size": VOCABULARY, "max_length": 12}
    return {"type": "decoder_only", **sizes, "init": init, "head": head, "decoder": stack}


def batch() -> Tensor:
    return torch.randint(0, VOCABULARY, (4, 13), generator=torch.Generator().manual_seed(0))


def trained(model: Any, settings: OptimizerSettings, steps: int) -> None:
    optimizer: Any = settings.make(model.train(), fused=False)
    tokens = batch()
    for _ in range(steps):
        optimizer.zero_grad()
        if hasattr(optimizer, "begin_step"):
            optimizer.begin_step()
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()


def factors(model: Any, settings: OptimizerSettings) -> dict[str, tuple[float, float]]:
    """The learning rate and decay of each parameter."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = settings.parameter_groups(model)
    return {names[one]: (group["lr"], group["weight_decay"]) for group in groups for one in group["params"]}


def published(optimizer: str, shape: torch.Size, at_base: torch.Size, *, is_table: bool) -> float:
    """The factor of tables 3 and 8 of Yang et al., 2022, from the shapes of two models alone.

    The axes that differ are the "infinite" ones. In table 3, Adam's rates are divided by the fan-in of hidden and
    output weights, and SGD's are multiplied by the fan-out of input weights and biases, and divided by the fan-in of
    output weights.
    """
    infinite = [new != old for new, old in zip(shape, at_base, strict=True)]
    m = max(new / old for new, old in zip(shape, at_base, strict=True))
    if is_table or len(shape) == 1:  # input weights, biases and gains
        return m if optimizer == "sgd" and any(infinite) else 1.0
    match infinite, optimizer:
        case [True, True], "sgd":
            return 1.0
        case [True, False], "sgd":
            return m
        case [_, True], _:
            return 1 / m
        case _:
            return 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion", "schedule_free"])
@pytest.mark.parametrize("head", ["tied", "own"])
@pytest.mark.parametrize("layer", [{}, {"adapters": {"*": {"type": "lora", "rank": 2}}}])
def test_rates_are_those_of_the_paper(optimizer: str, head: str, layer: Mapping[str, Any]) -> None:
    base, wide = (bf.build(recipe(dim, mup=True, head=head) | layer, device="meta") for dim in (BASE, 4 * BASE))
    settings = OptimizerSettings(optimizer, lr=0.01, weight_decay=0.1)
    at_base, found = factors(base, settings), factors(wide, settings)
    plain = factors(bf.build(recipe(BASE, mup=False, head=head) | layer, device="meta"), settings)
    assert at_base == plain
    for name, (rate, decay) in found.items():
        table = isinstance(wide.get_submodule(name.rpartition(".")[0]), nn.Embedding)
        shapes = wide.get_parameter(name).shape, base.get_parameter(name).shape
        assert rate == pytest.approx(0.01 * published(optimizer, *shapes, is_table=table)), name
        assert rate * decay == pytest.approx(0.01 * at_base[name][1]), name  # a step removes the same share


@pytest.mark.parametrize("optimizer", RATES)
def test_at_the_base_width_a_run_is_that_of_the_inner_init_to_the_last_bit(optimizer: str) -> None:
    ours, theirs = (bf.build(recipe(BASE, mup=mup)) for mup in (True, False))
    for model in (ours, theirs):
        trained(model, OptimizerSettings(optimizer, lr=RATES[optimizer]), 3)
    assert same(ours.state_dict(), theirs.state_dict())


def changes(dim: int, *, mup: bool, optimizer: str, head: str = "tied") -> dict[str, float]:
    """Root mean squares of how much five steps change the vectors after each layer and the logits."""
    model: Any = bf.build(recipe(dim, mup=mup, head=head))
    seen: dict[str, Tensor] = {}
    parts = {f"layer {n}": layer for n, layer in enumerate(model.decoder.layers)} | {"logits": model}

    def look() -> dict[str, Tensor]:
        hooks = [part.register_forward_hook(_keep(seen, name)) for name, part in parts.items()]
        with torch.no_grad():
            model.eval()(batch()[:, :-1])
        for hook in hooks:
            hook.remove()
        return dict(seen)

    before = look()
    trained(model, OptimizerSettings(optimizer, lr=RATES[optimizer], weight_decay=0.0), 5)
    return {name: float((after - before[name]).square().mean().sqrt()) for name, after in look().items()}


def _keep(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def keep(_: nn.Module, given: Any, result: Tensor) -> None:
        seen[name] = result.clone()

    return keep


@pytest.mark.parametrize(
    ("optimizer", "head"),
    [
        ("adamw", "tied"),
        *(pytest.param(one, "tied", marks=pytest.mark.slow) for one in RATES if one != "adamw"),
        pytest.param("adamw", "own", marks=pytest.mark.slow),
    ],
)
def test_coordinates_change_by_as_much_at_all_widths(optimizer: str, head: str) -> None:
    """The coordinate check of Yang et al., 2022, appendix D.1; without the init changes grow by more than 4."""
    narrow, wide = (changes(dim, mup=True, optimizer=optimizer, head=head) for dim in (BASE, WIDE))
    for name in narrow:
        assert 0.4 < wide[name] / narrow[name] < 2, (name, narrow[name], wide[name])
    plain = changes(WIDE, mup=False, optimizer=optimizer, head=head)  # at the base width both are the same
    assert max(plain[name] / narrow[name] for name in narrow) > 4, (narrow, plain)


def test_an_optimizer_without_a_rule_is_refused() -> None:
    model = bf.build(recipe(BASE, mup=True), device="meta")
    with pytest.raises(UserError, match=r"^optimizer.type adafactor: has no rule .* use adamw, lion, muon, .* or ano"):
        OptimizerSettings("adafactor").make(model, fused=False)
    ruled = [name for name in entries("optimizer") if name != "adafactor"]
    assert all(OptimizerSettings(name).make(model, fused=False) for name in ruled)


def test_a_group_of_its_own_rate_is_scaled_too() -> None:
    wide = bf.build(recipe(2 * BASE, mup=True), device="meta")
    groups = [{"match": "*.mixer.q.*", "lr": 0.5}, {"slot": "embedding", "lr": 0.25}]
    found = factors(wide, OptimizerSettings(lr=0.01, groups=groups))
    assert found["decoder.layers.0.mixer.q.weight"][0] == 0.25
    assert found["decoder.layers.0.mixer.k.weight"][0] == 0.005
    assert found["embedding.tokens.weight"][0] == 0.25


def test_a_family_of_transformers_is_exported_at_the_base_width_only() -> None:
    family, _ = family_for(load_recipe("gpt2", {"init": {"type": "mup", "base_width": 768}}))
    assert family.name
    with pytest.raises(ExportError, match=r"init: at 2 times its base_width the init scales attention scores"):
        family_for(load_recipe("gpt2", {"init": {"type": "mup", "base_width": 384}}))


@pytest.mark.slow
def test_a_run_continues_exactly_and_a_start_from_it_names_the_init(
    fit: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe.init", "{type: mup, base_width: 16}", "--optimizer.type", "muon"]
    whole = fit(*options, "--trainer.max_steps", "6", "--optimizer.schedule", "constant", name="whole")
    part = fit(*options, "--trainer.max_steps", "3", "--optimizer.schedule", "constant", name="part")
    given = ["--run.wandb", "disabled"]
    assert fit("--ckpt_path", "last", "--trainer.max_steps", "6", name="part", given=given) == part
    assert same(state(whole), state(part))
    capsys.readouterr()
    fit("--init-from", str(whole), "--trainer.max_steps", "1", name="plain")
    assert "init" in next(line for line in capsys.readouterr().out.splitlines() if "the recipes differ" in line)
