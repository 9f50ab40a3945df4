"""Plans: matching, runs, sizes and the hash."""

from typing import Any

import pytest

from blockformer.studies.matching import _closest
from blockformer.studies.plan import TUNING_SEED, Plan, make_plan
from blockformer.studies.study import read_study
from registry import RecipeError

HIDDEN = "decoder.layer.feedforward.hidden"
VARIANTS = {
    "relu2": {"decoder.layer.feedforward": {"type": "mlp", "activation": "relu2"}},
    "none": {"decoder.layer.feedforward": "none"},
    "same": {"decoder.layer.feedforward": {"type": "glu"}},
}


def plan(**changes: Any) -> Plan:
    fit = {"trainer": {"max_steps": 10}, "data": {"tokenizer": "bytes", "length": 32}}
    return make_plan(read_study({"base": "tiny_decoder", "variants": VARIANTS, "fit": fit, **changes}))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["parameters", "non_embedding", "active", "flops"])
def test_variants_are_made_as_large_as_the_base(what: str) -> None:
    found = plan(match={"what": what, "by": [HIDDEN, "dim"], "within": 0.1})
    for name, one in found.variants.items():
        assert abs(one.off) <= 0.1, name
    assert list(found.figures["relu2"].matched) == [HIDDEN]
    assert list(found.figures["none"].matched) == ["dim"]
    assert abs(found.variants["relu2"].off) < 0.01


@pytest.mark.slow
def test_cache_is_matched_by_heads() -> None:
    variants = {"wide": {"decoder.layer.mixer.kv_heads": 4}}
    found = plan(variants=variants, match={"what": "cache", "by": ["decoder.layer.mixer.kv_heads"]})
    assert found.figures["wide"].cache == found.figures["base"].cache


def test_a_multiple_is_kept_and_what_it_misses_is_shown() -> None:
    match = {"what": "parameters", "by": [HIDDEN], "within": 0.1, "multiple": 32}
    found = plan(variants={"relu2": VARIANTS["relu2"]}, match=match)
    assert found.figures["relu2"].matched[HIDDEN] % 32 == 0
    assert found.figures["relu2"].off != 0


@pytest.mark.slow
def test_what_cannot_be_matched_is_refused_with_the_closest() -> None:
    with pytest.raises(RecipeError) as wrong:
        plan(match={"what": "parameters", "by": [HIDDEN], "within": 0.001})
    assert "none of match.by (decoder.layer.feedforward.hidden) is a number in this variant" in str(wrong.value)
    with pytest.raises(RecipeError, match=r"the closest is with dim \d+; name another key in match.by, or allow"):
        plan(match={"what": "parameters", "by": {"none": ["dim"], "relu2": [HIDDEN]}, "within": 0.001})


@pytest.mark.parametrize("start", [12, 65_536, 2**40])
def test_a_key_of_any_size_is_matched_in_few_tries(start: int) -> None:
    """Such as key/value heads, whose number divides that of the heads."""
    tried: list[int] = []

    def size(value: int) -> float | None:
        tried.append(value)
        return 10.0 * value if start % value == 0 else None

    assert _closest(size, start, 41.0, 1) == 4
    assert len(tried) < 1000


def test_experts_that_are_not_chosen_are_not_active() -> None:
    found = plan(base="tiny_experts", variants={"shallow": {"decoder.depth": 2}})
    figures = found.figures["base"]
    assert figures.active < figures.parameters


def test_the_same_model_is_identical_and_not_trained() -> None:
    found = plan()
    assert found.identical == ("same",)
    assert {run.variant for run in found.answer_runs()} == {"base", "relu2", "none"}


def test_the_share_of_equal_initial_values() -> None:
    figures = plan().figures
    assert figures["base"].shared == figures["same"].shared == figures["none"].shared == 1.0
    assert 0.3 < figures["relu2"].shared < 1


@pytest.mark.slow
def test_a_seed_decides_what_the_study_says() -> None:
    for source in ("initial", "dropout", "order"):
        (first, *_) = plan(vary=[source]).answer_runs(seeds=(7,))
        settings = first.settings
        seeds = {"initial": settings["model"]["seed"], "dropout": settings["seed_everything"]}
        assert seeds | {"order": settings["data"]["seed"]} == {
            **dict.fromkeys(("initial", "dropout", "order"), 0),
            source: 7,
        }


def test_learning_rates_are_chosen_on_seeds_that_answer_nothing() -> None:
    found = plan(learning_rates=[1e-3, 3e-3])
    assert {run.seed for run in found.tuning_runs()} == {TUNING_SEED}
    assert len(found.tuning_runs()) == 6
    assert len(found.as_data()["runs"]) == 6 + 9


@pytest.mark.slow
def test_the_hash_changes_with_what_a_result_depends_on() -> None:
    same = plan()
    assert plan().hash == same.hash
    assert plan(question="another").hash == same.hash
    for changes in (
        {"seeds": 4},
        {"smallest": 0.1},
        {"fit": {"trainer": {"max_steps": 11}}},
        {"overrides": {"decoder.depth": 1}},
    ):
        assert plan(**changes).hash != same.hash
    one, other = plan().answer_runs()[0], plan(fit={"trainer": {"max_steps": 11}}).answer_runs()[0]
    assert one.id != other.id
    assert one.id == plan(question="another").answer_runs()[0].id


@pytest.mark.slow
def test_the_base_is_also_trained_with_other_budgets_where_the_exchange_rate_is_asked_for() -> None:
    found = plan(exchange_rate=True, seeds=2)
    budgets = found.budget_runs()
    assert [(run.variant, run.seed, run.settings["trainer"]["max_steps"]) for run in budgets] == [
        *(("base", 0, steps) for steps in (8, 12)),
        *(("base", 1, steps) for steps in (8, 12)),
    ]
    assert len({run.id for run in (*budgets, *found.answer_runs())}) == len(budgets) + len(found.answer_runs())
    assert not plan().budget_runs()


def test_a_length_that_a_variant_cannot_take_is_refused() -> None:
    assert plan(lengths=[2]).study.file.lengths == (2,)
    with pytest.raises(
        RecipeError, match=r"none: takes \d+ tokens, but sequences have 2048: lower fit.data.length or lengths"
    ):
        plan(lengths=[64])


@pytest.mark.slow
def test_a_budget_is_turned_into_steps_of_each_variant() -> None:
    fit = {"data": {"tokenizer": "bytes", "length": 32, "batch_size": 4}, "trainer": {"accumulate_grad_batches": 2}}
    assert [of.steps for of in plan(fit=fit, budget={"steps": 7}).figures.values()] == [7] * 4
    assert [of.steps for of in plan(fit=fit, budget={"tokens": 10 * 256 + 255}).figures.values()] == [10] * 4
    found = plan(fit=fit, budget={"flops": 1e11})
    for name, of in found.figures.items():
        assert of.steps == 1e11 // (3 * of.flops * 256), name
    assert found.figures["none"].steps > found.figures["base"].steps
    (_, _, none) = found.answer_runs(seeds=(0,))
    assert none.settings["trainer"]["max_steps"] == found.figures["none"].steps
    assert found.hash != plan(fit=fit, budget={"flops": 2e11}).hash
    with pytest.raises(RecipeError, match="budget: is less than one step, which takes 256 tokens"):
        plan(fit=fit, budget={"tokens": 255})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"budget": {"tokens": 1}}, "budget: contradicts fit.trainer.max_steps: give one"),
        ({"budget": {}}, "budget: must be one of steps, tokens and flops"),
        ({"budget": {"steps": 1, "tokens": 1}}, "budget: must be one of steps, tokens and flops"),
        ({"budget": {"minutes": 5}}, "budget.minutes: there is no such key; known: steps, tokens, flops"),
        ({"fit": {}}, "or give budget"),
    ],
)
def test_wrong_budgets_are_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        plan(**changes)


@pytest.mark.slow
def test_the_hash_has_the_seeds_that_choose_learning_rates() -> None:
    rates = {"learning_rates": [1e-3, 3e-3]}
    assert plan(**rates).hash != plan(**rates, tuning_seeds=2).hash
    assert plan().hash == plan(tuning_seeds=2).hash


@pytest.mark.slow
def test_the_memory_of_a_run_is_that_of_what_it_trains() -> None:
    fit = {"trainer": {"max_steps": 10}, "data": {"tokenizer": "bytes", "length": 32}}
    whole, part = (plan(fit=fit | more).figures for more in ({}, {"optimizer": {"train": ["*.mixer.*"]}}))
    for name, figures in whole.items():
        assert part[name].memory < figures.memory
        assert part[name].parameters == figures.parameters
