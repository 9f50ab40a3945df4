"""Every block, each of its options and every kind of model computes on a GPU what it computes on a CPU."""

from functools import cache
from random import Random

import pytest
import torch

import blockformer as bf
from blockformer.assembly import check
from blockformer.conformance import BlockCase, registered
from blockformer.conformance.block_case import MODEL_PLACES
from blockformer.conformance.checks.compilation import inputs_of_every_kind
from blockformer.conformance.example import example
from blockformer.conformance.generate import OFTEN, RecipeGenerator
from blockformer.conformance.grammar import Grammar
from blockformer.conformance.recipe_checks import small_recipe_case
from blockformer.conformance.table import WITHOUT_FORWARD
from blockformer.conformance.validate import ValidRecipe, as_yaml, repair
from blockformer.conformance.variants import variants
from registry import builtin_recipes, load_recipe
from tests.gpu.comparison import GPU, compare

pytestmark = pytest.mark.gpu
RUNNING = [case for case in registered("blocks") if case.slot not in WITHOUT_FORWARD]
DRAWN = 8  # models of each kind
RECIPES = sorted({path.parent: name for name, path in sorted(builtin_recipes().items(), reverse=True)}.values())
"""The first of each folder: an architecture."""


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in RUNNING])
def test_a_block_computes_the_same_with_each_of_its_options(case: BlockCase) -> None:
    wrong: list[str] = []
    for variant in [case, *variants(case)]:
        block = variant.build_perturbed()
        inputs = inputs_of_every_kind(variant, block) if variant is case else {"plain": example(variant)}
        for what, given in inputs.items():
            try:
                compare(block, given)
            except (AssertionError, RuntimeError, NotImplementedError) as error:
                wrong.append(f"{variant.id}, {what}: {error}")
    assert not wrong, "\n".join(wrong)


@cache
def drawn(kind: str) -> list[ValidRecipe]:
    generator, found = RecipeGenerator(Grammar.read(), Random(kind), OFTEN), list[ValidRecipe]()
    while len(found) < DRAWN:
        valid = repair(generator.recipe(model=kind), [])
        if valid and not large_values(valid):
            found.append(valid)
    return found


def large_values(recipe: ValidRecipe) -> bool:
    """Whether initial values are so large that rounding grows from layer to layer without bound."""
    return "std: 2.0" in as_yaml(recipe.tree)


@pytest.mark.parametrize("number", range(DRAWN))
@pytest.mark.parametrize("kind", MODEL_PLACES)
def test_a_generated_model_computes_the_same(kind: str, number: int) -> None:
    recipe = drawn(kind)[number]
    try:
        compare(recipe.case.build_perturbed(), example(recipe.case))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{as_yaml(recipe.tree)}") from error


@pytest.mark.parametrize("name", RECIPES)
def test_a_published_model_of_small_size_computes_the_same(name: str) -> None:
    recipe = load_recipe(name)
    case = small_recipe_case(recipe, check(recipe))
    compare(case.build_perturbed(), example(case, length=9))


@pytest.mark.parametrize("recipe", ["tiny_decoder", "tiny_experts", "tiny_hybrid", "tiny_encoder_decoder"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_initial_values_do_not_depend_on_the_device(recipe: str, dtype: torch.dtype) -> None:
    here, there = (bf.build(recipe, seed=3, device=device, dtype=dtype).state_dict() for device in ("cpu", GPU))
    assert list(here) == list(there)
    for name, value in there.items():
        assert value.device.type == GPU.type
        assert torch.equal(here[name], value.cpu()), name
