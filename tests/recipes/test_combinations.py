"""Recipes that nobody wrote: drawn from the registry so that options meet, and held to every promise.

`make conformance` does so with thousands; here are a few, with the checks that run on each of those.
"""

from functools import cache
from random import Random

import pytest

from blockformer.conformance.admitting import Admitted, admit, as_yaml, mended
from blockformer.conformance.choices import Grammar
from blockformer.conformance.covering import Plan
from blockformer.conformance.drawing import OFTEN, Drawer, ImpossibleError
from blockformer.conformance.judging import ALWAYS, LEFT_OUT, LONG, applying, judged, named
from blockformer.conformance.reducing import smallest
from blockformer.conformance.subject import SMALL, registered
from blockformer.conformance.table import checks
from blockformer.conformance.trying import Trials
from registry import RecipeError

MODELS = ("decoder_only", "encoder_only", "encoder_decoder")


@cache
def grammar() -> Grammar:
    return Grammar.read()


@cache
def drawn(model: str, count: int, seed: int) -> list[Admitted]:
    drawer, found = Drawer(grammar(), Random(seed), OFTEN), list[Admitted]()
    while len(found) < count:
        if admitted := mended(drawer.recipe(model=model), []):
            found.append(admitted)
    return found


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("model", MODELS)
def test_a_recipe_that_is_accepted_keeps_its_promises(model: str, number: int) -> None:
    recipe = drawn(model, 6, 0)[number]
    checked, failure = judged(recipe, number=1)  # with 0, all that takes long runs too
    assert failure is None, f"{failure}\n{as_yaml(recipe.tree)}"
    assert checked > 10


def test_a_wish_is_granted_wherever_it_can_stand() -> None:
    wishes = ("norm/dynamic_tanh", "mixer/latent.window: 2")
    found = Trials(grammar(), 0).find(wishes, 20)
    assert isinstance(found, Admitted)
    assert found.said.issuperset(wishes)
    assert "dynamic_tanh" in as_yaml(found.tree)
    assert "window: 2" in as_yaml(found.tree)


def test_what_cannot_stand_together_is_refused_in_words() -> None:
    found = Trials(grammar(), 0).find(("layer/parallel.mixer: gated_delta",), 3, model="encoder_only")
    assert not isinstance(found, Admitted | None)
    assert "gated_delta" in found.reason


def test_nothing_is_drawn_that_no_grammar_holds() -> None:
    with pytest.raises(ImpossibleError):
        Drawer(grammar(), Random(0), OFTEN).recipe(("mixer/attention", "norm/unheard_of"))


def test_two_things_can_be_said_together_if_they_part_ways_somewhere() -> None:
    found = grammar()

    def can(one: str, other: str) -> bool:
        numbers = sorted((found.number[one], found.number[other]))
        return bool(found.together[numbers[0], numbers[1]])

    assert can("rotary_scaling/yarn", "norm/scale")
    assert can("mixer/gated_delta", "mixer/latent"), "in two layers of a pattern"
    assert can("norm/rms.eps: 0.5", "norm/rms.eps: 2.0"), "in two norms"
    assert not can("init/normal", "init/xavier")
    assert not can("model/decoder_only", "model/encoder_only")


def test_a_plan_brings_choices_together_that_had_not_met() -> None:
    plan = Plan(0)
    found = list(plan.pairs(3))
    assert [one.how for one in found] == ["pair"] * 3
    for one in found:
        assert one.admitted.said.issuperset(one.wishes)
        assert all("." not in wish for wish in one.wishes), "blocks come first"
    few = plan.figures()["block_pairs"]
    assert 0 < few["accepted"] < few["possible"]
    (triple,) = plan.triples(1)
    assert len(triple.wishes) == 3


def test_the_same_seed_draws_the_same_recipes() -> None:
    first, second = ([one.admitted.tree for one in Plan(4).pairs(2)] for _ in range(2))
    assert first == second


def test_what_a_recipe_has_no_use_for_is_left_out() -> None:
    tree = {"type": "decoder_only", "dim": 32, "decoder": {"depth": 2, "layer": {"cross": {"heads": 2}}}}
    found = mended(tree, [])
    assert found is not None
    assert "cross" not in as_yaml(found.tree)


def test_a_failing_recipe_is_reduced_to_what_makes_it_fail() -> None:
    tree = next(one.tree for one in drawn("decoder_only", 6, 0) if len(as_yaml(one.tree)) > 300)
    tree = {**tree, "head": {"type": "own", "bias": True, "softcap": 2.0}}

    def fails(candidate: dict[str, object]) -> bool:
        try:
            return "head/own.softcap: 2.0" in admit(candidate).said
        except RecipeError:
            return False

    sizes = {key: SMALL[key] for key in ("dim", "vocab_size", "max_length")}
    assert smallest(tree, fails) == {"type": "decoder_only", **sizes, "head": {"type": "own", "softcap": 2.0}}


def test_every_check_of_a_model_runs_on_some_recipe() -> None:
    known = {"backends_agree", "comes_back_from_its_canonical_form"}
    for subject in (one for one in registered("blocks") if one.slot == "model"):
        of_it = {named(check) for check in checks(subject)}
        assert of_it - {named(check) for check in applying(subject)} <= set(LEFT_OUT)
        assert {named(check) for check in applying(subject, 1)} <= ALWAYS
        known |= of_it
    assert known >= ALWAYS | LONG | set(LEFT_OUT)
