"""The conformance checks on every recipe of the project, at small sizes."""

import pytest

import blockformer as bf
from blockformer.conformance import BlockCase, Check, parametrize_checks
from blockformer.conformance.checks.compilation import check_backends_agree, check_compiles_without_graph_breaks
from blockformer.conformance.checks.construction import check_builds_from_its_name
from blockformer.conformance.checks.training import (
    check_dropout_acts_only_in_training,
    check_dropout_has_its_rate,
    check_gradients_match_finite_differences,
    check_learns_one_batch,
)
from blockformer.conformance.recipe_checks import small_recipe_case
from blockformer.conformance.table import LONG
from registry import builtin_recipes, load_recipe
from tests.recipes.releases import DISTINCT, EVERYDAY

# Slow on a whole model; test_conformance.py runs them on every block alone.
ALONE = (
    check_builds_from_its_name,
    check_compiles_without_graph_breaks,
    check_gradients_match_finite_differences,
    check_dropout_acts_only_in_training,
    check_dropout_has_its_rate,
    *LONG,
)
LEARNING = ("gpt2", "llama3_8b", "transformer")


def small(name: str) -> BlockCase:
    recipe = load_recipe(name)
    return small_recipe_case(recipe, bf.check(recipe))


SMALL = {name: small(name) for name in DISTINCT}
OFTEN = [SMALL[name] for name in EVERYDAY]
SELDOM = [SMALL[name] for name in DISTINCT if name not in EVERYDAY]


@pytest.mark.parametrize("name", DISTINCT)
def test_a_shrunk_recipe_has_the_blocks_of_the_whole_one(name: str) -> None:
    def kinds(case_or_spec: object) -> set[str]:
        spec = case_or_spec.spec if isinstance(case_or_spec, BlockCase) else case_or_spec
        return {f"{part.entry.slot}/{part.entry.name}" for _, part in spec.walk()}

    assert kinds(SMALL[name]) == kinds(load_recipe(name).spec)
    assert sum(p.numel() for p in SMALL[name].construct().parameters()) < 300_000


@parametrize_checks(OFTEN, without=ALONE)
def test_whole(case: BlockCase, check: Check) -> None:
    check(case)


@pytest.mark.slow
@parametrize_checks(SELDOM, without=ALONE)
def test_a_whole_published_model(case: BlockCase, check: Check) -> None:
    check(case)


@pytest.mark.slow
@parametrize_checks(OFTEN, only=(*ALONE, check_backends_agree))
def test_whole_at_length(case: BlockCase, check: Check) -> None:
    check(case)


@parametrize_checks([SMALL[name] for name in LEARNING], only=[check_learns_one_batch])
def test_learns_one_batch(case: BlockCase, check: Check) -> None:
    check(case)


@pytest.mark.slow
@parametrize_checks(SELDOM, only=LONG)
def test_a_whole_published_model_at_length(case: BlockCase, check: Check) -> None:
    check(case)


@pytest.mark.parametrize("name", builtin_recipes())
def test_a_recipe_says_where_it_comes_from(name: str) -> None:
    text = builtin_recipes()[name].read_text()
    comment = " ".join(line.lstrip("# ") for line in text.splitlines()[1:] if line.startswith("#"))
    assert len(comment) > 40, "the second line says what the recipe is"
