"""Generated recipes: how they are generated, validated, checked and shrunk; a small sample of `make conformance`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from blockformer.conformance.block_case import SMALL, BlockCase, registered
from blockformer.conformance.coverage import CoveragePlan
from blockformer.conformance.generate import OFTEN, RecipeGenerator, Search, UnreachableError
from blockformer.conformance.grammar import Grammar, holds_blocks
from blockformer.conformance.recipe_checks import (
    ALWAYS,
    LEFT_OUT,
    SELDOM,
    USUAL_SIZES,
    RecipeResult,
    checks_of_recipe,
    run_recipe_checks,
)
from blockformer.conformance.shrink import shrink
from blockformer.conformance.table import check_name, checks_for, registered_checks
from blockformer.conformance.validate import ValidRecipe, as_yaml, repair, validate
from blocks.base import Activation
from registry import RecipeError

SIZES = {key: SMALL[key] for key in ("dim", "vocab_size", "max_length")}
MODELS = ("decoder_only", "encoder_only", "encoder_decoder")


@cache
def grammar() -> Grammar:
    return Grammar.read()


@cache
def generated(model: str, count: int, seed: int) -> list[ValidRecipe]:
    generator, found = RecipeGenerator(grammar(), Random(seed), OFTEN), list[ValidRecipe]()
    while len(found) < count:
        if valid := repair(generator.recipe(model=model), []):
            found.append(valid)
    return found


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("model", MODELS)
def test_a_valid_recipe_passes_the_checks(model: str, number: int) -> None:
    recipe = generated(model, 6, 0)[number]
    result = run_recipe_checks(recipe, number=1)  # with 0, the slow checks run too
    assert result.failure is None, f"{result.failure}\n{as_yaml(recipe.tree)}"
    assert {"accepts_one_token", "rows_are_independent", "restores_its_state_dict"} <= set(result.passed)


def test_wanted_choices_are_in_the_recipe() -> None:
    wanted = ("norm/dynamic_tanh", "mixer/latent.window: 2")
    found = Search(grammar(), 0).find(wanted, 20)
    assert isinstance(found, ValidRecipe)
    assert found.choices.issuperset(wanted)
    assert "dynamic_tanh" in as_yaml(found.tree)
    assert "window: 2" in as_yaml(found.tree)


def test_choices_that_exclude_each_other_are_refused_with_the_reason() -> None:
    found = Search(grammar(), 0).find(("layer/parallel.mixer: gated_delta",), 3, model="encoder_only")
    assert not isinstance(found, ValidRecipe | None)
    assert "gated_delta" in found.reason


def test_a_block_that_is_left_out_because_it_does_nothing_is_a_choice_too() -> None:
    chosen = {"type": "decoder_only", **SIZES, "decoder": {"depth": 1, "layer": {"feedforward": "none"}}}
    assert {"feedforward/none", "layer/sequential.feedforward: none"} <= validate(chosen).choices


def test_an_init_inside_another_is_a_choice_too() -> None:
    chosen = {"type": "decoder_only", **SIZES, "init": {"type": "mup", "inner": "xavier"}}
    assert {"init/xavier", "init/mup.inner: xavier"} <= validate(chosen).choices


def test_choices_of_blocks_that_hold_others_are_told_from_the_rest() -> None:
    """A plan looks for these first: where no recipe has the block, its options are not looked for."""
    outer = {choice for choice in grammar().choices if holds_blocks(choice)}
    assert outer >= {"mixer/attention", "layer/sequential.cross: cross_attention", "residual/layerscale.inner: pre"}
    assert not outer & {"norm/rms", "mixer/attention.qk_norm: rms", "mixer/cross_attention.softcap: 0.5"}


def test_values_that_grow_without_a_norm_are_told_from_others_that_are_not_finite(
    registry_of_a_test: Callable[..., Any],
) -> None:
    @registry_of_a_test("not_a_number")
    class NotANumber(Activation):
        def __init__(self) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.nan

    def result(activation: str) -> RecipeResult:
        layer = {
            "mixer": {"type": "scaled", "inner": {"type": "selective_scan", "activation": activation}},
            "feedforward": {"type": "glu", "activation": activation},
            "residual": {"type": "pre", "norm": "none"},
        }
        tree = {"type": "decoder_only", **SIZES, "decoder": {"depth": 4, "layer": layer}, "init": "xavier"}
        return run_recipe_checks(validate(tree), number=1)

    grows, wrong = result("xielu"), result("not_a_number")
    assert not grows.passed
    assert grows.not_applicable
    assert grows.failure is None
    assert wrong.failure is not None


@pytest.mark.slow
def test_a_block_that_no_recipe_has_is_left_out() -> None:
    found = Grammar.read(("feedforward/none",))
    assert "feedforward/none" not in found.choices
    assert found.reaches("model", "decoder_only", "feedforward/mlp")
    assert found.together.shape == (len(found.choices),) * 2


def test_a_choice_outside_the_grammar_cannot_be_generated() -> None:
    with pytest.raises(UnreachableError):
        RecipeGenerator(grammar(), Random(0), OFTEN).recipe(("mixer/attention", "norm/unheard_of"))


@pytest.mark.slow
def test_two_choices_can_be_together_if_they_belong_to_different_parameters() -> None:
    found = grammar()

    def can(one: str, other: str) -> bool:
        numbers = sorted((found.number[one], found.number[other]))
        return bool(found.together[numbers[0], numbers[1]])

    assert can("rotary_scaling/yarn", "norm/scale")
    assert can("mixer/gated_delta", "mixer/latent"), "in two layers of a pattern"
    assert can("norm/rms.eps: 0.5", "norm/rms.eps: 2.0"), "in two norms"
    assert not can("init/normal", "init/xavier")
    assert not can("model/decoder_only", "model/encoder_only")


@pytest.mark.slow
def test_a_plan_generates_pairs_that_were_not_together() -> None:
    plan = CoveragePlan(0)
    found = list(plan.pairs(3))
    assert [one.how for one in found] == ["pair"] * 3
    for one in found:
        assert one.valid.choices.issuperset(one.wanted)
        assert all("." not in choice for choice in one.wanted), "blocks come first"
    few = plan.figures()["block_pairs"]
    assert 0 < few["accepted"] < few["possible"]
    (triple,) = plan.triples(1)
    assert len(triple.wanted) == 3


@pytest.mark.slow
def test_the_same_seed_generates_the_same_recipes() -> None:
    first, second = ([one.valid.tree for one in CoveragePlan(4).pairs(2)] for _ in range(2))
    assert first == second
    with ThreadPoolExecutor(2) as pool:  # which begins searches that turn out not to be needed
        assert [one.valid.tree for one in CoveragePlan(4, pool).pairs(2)] == first


def test_repair_removes_unused_keys() -> None:
    tree = {"type": "decoder_only", "dim": 32, "decoder": {"depth": 2, "layer": {"cross": {"heads": 2}}}}
    found = repair(tree, [])
    assert found is not None
    assert "cross" not in as_yaml(found.tree)


def test_a_failing_recipe_is_shrunk_to_the_keys_that_make_it_fail() -> None:
    tree = next(one.tree for one in generated("decoder_only", 6, 0) if len(as_yaml(one.tree)) > 300)
    tree = {**tree, "head": {"type": "own", "bias": True, "softcap": 2.0}}

    def fails(candidate: dict[str, object]) -> bool:
        try:
            return "head/own.softcap: 2.0" in validate(candidate).choices
        except RecipeError:
            return False

    assert shrink(tree, fails) == {"type": "decoder_only", **SIZES, "head": {"type": "own", "softcap": 2.0}}


def test_every_check_of_a_model_runs_on_some_recipe() -> None:
    known = {check_name(check) for check in registered_checks()} | {"canonical_form_builds_the_same_model"}
    for case in (one for one in registered("blocks") if one.slot == "model"):
        of_it = {check_name(check) for check in checks_for(case)}
        assert of_it - {check_name(check) for check in checks_of_recipe(case)} <= set(LEFT_OUT)
        assert {check_name(check) for check in checks_of_recipe(case, 1)} <= ALWAYS
    assert known >= ALWAYS | {*SELDOM, *USUAL_SIZES, *LEFT_OUT}


def test_checks_that_need_usual_sizes_do_not_run_on_others() -> None:
    usual, tiny = (
        BlockCase("model", "decoder_only", {**SIZES, "decoder": {"depth": 2, "layer": {"mixer": {"window": window}}}})
        for window in (8, 1)
    )
    left_out = {check_name(check) for check in [*checks_of_recipe(usual)] if check not in checks_of_recipe(tiny)}
    of_other_models = {"depends_on_every_memory_token", "token_order_matters_only_if_declared"}
    assert left_out == set(USUAL_SIZES) - of_other_models
