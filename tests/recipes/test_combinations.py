"""Recipes that nobody wrote: drawn from the registry so that options meet in pairs, and held to every invariant."""

from functools import cache

import pytest

import blocks
from blocks.conformance import Subject, checks
from blocks.conformance.combining import combinations_of, covering
from blocks.conformance.table import ONCE, name_of
from blocks.conformance.variants import allowed
from registry import entries, load

MODELS = ("decoder_only", "encoder_only", "encoder_decoder")
# A block alone has passed these. Some take long; some say that a thing makes a difference or keeps its precision, which
# extreme sizes deny (a window of one token leaves queries without a gradient, a norm over two channels levels all, and
# scores in the hundreds round away); and torch counts all of a window's square.
LEFT_OUT = {
    "builds_from_its_name",
    "gradients_are_right",
    "drops_out_only_in_training",
    "initial_values_depend_on_names_alone",
    "gradients_reach_every_parameter",
    "sees_itself",
    "reads_the_memory",
    "is_precise_in_float32",
    "works_in_bfloat16",
    "trains_in_bfloat16",
    "shifts_as_it_says",
    "sees_as_far_as_it_says",
    "drops_out_at_its_rate",
    "starts_as_it_says",
}


def holds(subject: Subject) -> None:
    for check in checks(subject):
        if check not in ONCE and name_of(check) not in LEFT_OUT:
            try:
                check(subject)
            except Exception as error:
                error.add_note(f"  {check.__name__} of {subject.canonical()}")
                raise


@cache
def drawn(model: str, count: int, seed: int) -> list[Subject]:
    return [combination.subject for combination in covering(model, count, seed=seed)]


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("model", MODELS)
def test_a_recipe_that_builds_keeps_every_promise(model: str, number: int) -> None:
    holds(drawn(model, 8, 0)[number])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(60))
@pytest.mark.parametrize("model", MODELS)
def test_many_recipes_that_build_keep_every_promise(model: str, number: int) -> None:
    holds(drawn(model, 60, 1)[number])


def test_a_few_recipes_bring_many_options_together() -> None:
    found = covering("decoder_only", 8)
    few = set().union(*(combination.pairs for combination in found))
    stream = combinations_of("decoder_only", seed=9)
    as_many = set().union(*(next(stream).pairs for _ in range(8)))
    assert len(few) > 1.3 * len(as_many)
    kinds = {choice for combination in found for choice in combination.choices if choice[0].endswith("mixer")}
    assert len(kinds) > 1


def test_the_same_seed_draws_the_same_recipes() -> None:
    first, second = (covering("encoder_only", 3, seed=5) for _ in range(2))
    assert [one.subject for one in first] == [other.subject for other in second]
    assert all(allowed(one.subject) for one in first)


def test_a_combination_is_a_recipe() -> None:
    subject = covering("decoder_only", 1)[0].subject
    recipe = load({"type": subject.name, **subject.canonical()})  # what is drawn in vain is no mistake there
    assert recipe.spec.entry is entries("model")["decoder_only"]
    assert blocks.build(recipe).size == sum(p.numel() for p in subject.make().parameters())
