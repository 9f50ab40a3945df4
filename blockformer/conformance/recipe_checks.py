"""Checks of whole recipes: which checks run on which recipe, and small sizes."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch

from blockformer.assembly.builder import check as build_check
from blockformer.conformance.block_case import MODEL_PLACES, SMALL, BlockCase, NotApplicable, Place
from blockformer.conformance.checks import compilation
from blockformer.conformance.example import example, run
from blockformer.conformance.table import Check, check_name, checks_for
from blockformer.conformance.validate import ValidRecipe
from blockformer.conformance.variants import INTEGERS
from blocks.base import Component
from blocks.models.base import Model
from registry import Recipe, load_recipe

ALWAYS = frozenset(
    {
        "is_causal",
        "is_causal_with_a_cache",
        "ignores_padding",
        "ignores_padding_of_each_row",
        "ignores_memory_padding",
        "rows_of_padding_give_finite_values",
        "packed_documents_are_independent",
        "accepts_one_token",
        "accepts_empty_inputs",
        "accepts_max_length",
        "decodes_token_by_token",
        "decodes_in_chunks",
        "decodes_a_padded_batch",
        "decodes_after_reordering_the_cache",
        "cache_size_is_as_declared",
        "parameters_by_slot_add_up",
        "hidden_states_give_the_logits",
        "rows_are_independent",
        "restores_its_state_dict",
        "canonical_form_builds_the_same_model",
        "refuses_padding",
        "refuses_documents",
        "refuses_a_cache",
        "refuses_an_invalidated_cache",
        "refuses_more_than_max_length",
    }
)
"""Checks that run on every recipe: these can fail where blocks are combined. Most others run on one in ``OFTEN``."""
OFTEN = 4
SELDOM: Mapping[str, int] = {
    "backends_agree": 20,
    "dropout_has_its_rate": 20,
    "dropout_acts_only_in_training": 20,
    "exports": 20,
    "initial_values_depend_on_seed_and_name_only": 20,
    "compiles_once_for_all_lengths": 50,
    "compiles_without_graph_breaks": 50,
}
"""Slow checks run on one recipe in this many."""
USUAL_SIZES: Mapping[str, str] = {
    "gradients_reach_every_parameter": "one token in a window, or one expert, has the weight 1 whatever its score",
    "each_output_depends_on_its_own_token": "a norm over two channels makes all vectors equal up to a sign",
    "position_shift_has_the_declared_effect": "a norm over one or two channels makes all vectors equal up to a sign",
    "projections_take_adapters": "one token in a window, or one expert, has the weight 1 whatever its score",
    "attends_exactly_its_window": "a norm over one or two channels makes all vectors equal up to a sign",
    "depends_on_every_memory_token": "a norm over two channels makes all vectors equal up to a sign",
    "token_order_matters_only_if_declared": "keys that match none of a few heads of an index have equal scores",
    "float32_matches_float64": "rounding changes scores in the hundreds, and the choice of experts",
    "bfloat16_matches_float64": "rounding changes scores in the hundreds, and the choice of experts",
    "bfloat16_gradients_match_float64": "rounding changes scores in the hundreds, and the choice of experts",
}
"""Checks that run only on recipes in which no number is set to 1, 2 or 3, each with the reason."""
WITHOUT_CHOICES = frozenset({"bfloat16_matches_float64", "bfloat16_gradients_match_float64"})
"""Checks that run only on recipes without key selectors and routers, as rounding changes what they choose."""
WITHOUT_NESTING = frozenset({"attends_exactly_its_window"})
"""Checks that run only where no residual is nested in two others, whose branches are lost in rounding."""
LEFT_OUT: Mapping[str, str] = {
    "learns_one_batch": "a small width, a large softcap or a large initial deviation may need more steps",
}
"""Checks that do not run on generated recipes, each with the reason."""


@dataclass(frozen=True)
class Failure:
    """A check that failed, and its error."""

    check: str
    error: str


@dataclass(frozen=True)
class RecipeResult:
    """The names of the checks that passed and that did not apply, and the first failure."""

    passed: tuple[str, ...]
    not_applicable: tuple[str, ...]
    failure: Failure | None


def run_recipe_checks(valid: ValidRecipe, number: int = 0) -> RecipeResult:
    """Run the checks of a recipe until one fails.

    Args:
        valid: the recipe.
        number: index of the recipe in its run, which selects the checks that run on a sample; with 0 all run.
    """
    passed, not_applicable, shared = list[str](), list[str](), SharedCase(**vars(valid.case))
    checks = checks_of_recipe(valid.case, number)
    if _overflows(shared):
        return RecipeResult((), tuple(check_name(check) for check in checks), None)
    for check in checks:
        name = check_name(check)
        try:
            check(shared if name in ALWAYS else valid.case)
        except NotApplicable:
            not_applicable.append(name)
        except Exception as error:  # whatever it is, the check did not pass
            return RecipeResult(tuple(passed), tuple(not_applicable), Failure(name, f"{type(error).__name__}: {error}"))
        else:
            passed.append(name)
    return RecipeResult(tuple(passed), tuple(not_applicable), None)


def _overflows(case: BlockCase) -> bool:
    """Whether values grow beyond float64 without a norm, as those of activations that square and of gates do.

    Values that are not finite for another reason are not finite with weights of a hundredth either.
    """
    if not any((spec.entry.slot, spec.entry.name) == ("norm", "none") for _, spec in case.spec.walk()):
        return False
    block, given = case.build_perturbed(), example(case)
    if bool(torch.isfinite(run(block, given)).all()):
        return False
    smaller = deepcopy(block)
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.mul_(0.01)
    return bool(torch.isfinite(run(smaller, given)).all())


class SharedCase(BlockCase):
    """A case that is built once for all checks that do not change the block."""

    def build_perturbed(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Component:
        """As :meth:`BlockCase.build_perturbed`, but the same block every time."""
        built: dict[tuple[torch.dtype, int], Component] = self.__dict__.setdefault("_built", {})
        if (dtype, seed) not in built:
            built[dtype, seed] = super().build_perturbed(dtype, seed)
        return built[dtype, seed].eval()


def checks_of_recipe(case: BlockCase, number: int = 0) -> list[Check]:
    """The checks that run on the recipe with this number."""
    found = dict.fromkeys(
        [*checks_for(case), check_canonical_form_builds_the_same_model, compilation.check_backends_agree]
    )
    left_out = {*LEFT_OUT, *(() if _has_usual_sizes(case.params) else USUAL_SIZES)}
    if any(spec.entry.slot in ("key_selector", "router") for _, spec in case.spec.walk()):
        left_out |= WITHOUT_CHOICES
    if any(spec.entry.slot == "residual" and path.count("inner") > 1 for path, spec in case.spec.walk()):
        left_out |= WITHOUT_NESTING
    return [check for check in found if check_name(check) not in left_out and number % every(check_name(check)) == 0]


def every(name: str) -> int:
    """The check runs on one recipe in this many."""
    return 1 if name in ALWAYS else SELDOM.get(name, OFTEN)


def _has_usual_sizes(value: Any, key: str = "") -> bool:
    if isinstance(value, Mapping):
        return all(_has_usual_sizes(child, name) for name, child in cast("Mapping[str, Any]", value).items())
    if isinstance(value, tuple):
        return all(_has_usual_sizes(child, key) for child in cast("tuple[Any, ...]", value))
    return type(value) is bool or value not in INTEGERS or key in SMALL


def check_canonical_form_builds_the_same_model(case: BlockCase) -> None:
    """A recipe with all defaults written out has the same hash and builds a model of the same size."""
    recipe = load_recipe({"type": case.name, **case.params})
    again = load_recipe(recipe.dump())
    assert again.hash == recipe.hash, "the canonical form has another hash"
    sizes = build_check(again).size, build_check(recipe).size
    assert sizes[0] == sizes[1], f"the canonical form builds {sizes[0]} parameters, the recipe {sizes[1]}"


SIZES: Mapping[str, Any] = {
    **SMALL,
    "source_vocab_size": SMALL["vocab_size"],
    "hidden": 24,
    "width": 16,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "window": 3,
    "trained_length": 8,
    "kv_rank": 8,
    "q_rank": 8,
    "rotary_dim": 4,
    "value_dim": 6,
    "keep": 3,
    "experts": 4,
    "top_k": 2,
    "groups": 2,
    "top_groups": 1,
}


def small_recipe_case(recipe: Recipe, model: Model) -> BlockCase:
    """The recipe with small sizes, as a case.

    Null stays null, one key-and-value head stays one, and ``kv_heads`` equal to ``heads`` stays equal.

    Args:
        recipe: a recipe of any size.
        model: the model that it builds, on the meta device.
    """
    small = {key: _small(value) for key, value in recipe.dump().items()}
    place: Place = MODEL_PLACES[model.kind]
    return BlockCase(
        "model",
        str(small.pop("type")),
        {key: SMALL.get(key, value) for key, value in small.items()},
        place,
        recipe.name,
    )


def _small(tree: Any) -> Any:
    if isinstance(tree, list):
        return tuple(_small(item) for item in cast("list[Any]", tree))
    if not isinstance(tree, dict):
        return tree
    node = cast("dict[str, Any]", tree)
    found = {key: _size(key, value, node) for key, value in node.items()}
    if node.get("pattern"):
        found["depth"] = len(node["pattern"]) + len(cast("Sequence[str]", node.get("first") or ()))
    return found


def _size(key: str, value: Any, node: Mapping[str, Any]) -> Any:
    if not isinstance(value, int) or isinstance(value, bool) or key not in SIZES:
        return _small(value)
    if key == "kv_heads" and value in (1, node.get("heads")):
        return 1 if value == 1 else SIZES["heads"]
    return SIZES[key]
