"""The statistics of a study against other implementations, published tables, and simulations with known answers."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from blockformer.studies import statistics as ours

VARIANTS = ("a", "b", "c", "d")


def study(
    draw: np.random.Generator, *, seeds: int = 5, effect: float = 0.0, noise: float = 0.1, variants: int = 4
) -> dict[str, dict[int, float]]:
    """Scores of a base and variants with equal seed effects; the first variant differs by ``effect``."""
    shared = draw.normal(3, 1, seeds)
    scores = {"base": dict(enumerate(shared + draw.normal(0, noise, seeds)))}
    for index, name in enumerate(VARIANTS[:variants]):
        scores[name] = dict(enumerate(shared + draw.normal(0, noise, seeds) + (effect if index == 0 else 0)))
    return scores


@pytest.mark.parametrize(
    ("variants", "degrees", "critical"),
    [(2, 5, 3.03), (2, 10, 2.57), (3, 10, 2.76), (4, 10, 2.89), (1, 4, 2.776)],  # Dunnett 1964, two-sided 5 %
)
def test_critical_values_are_those_of_the_published_table(variants: int, degrees: int, critical: float) -> None:
    assert ours.dunnett_critical(variants, degrees) == pytest.approx(critical, abs=0.006)


@pytest.mark.parametrize(("t", "variants", "degrees"), [(2.0, 3, 6), (3.1, 2, 4), (1.2, 5, 12), (2.7, 4, 40)])
def test_p_is_that_of_the_multivariate_t_distribution(t: float, variants: int, degrees: int) -> None:
    shape = np.full((variants, variants), 0.5) + 0.5 * np.eye(variants)
    bounds = np.full(variants, t)
    inside = stats.multivariate_t(shape=shape, df=degrees, seed=0).cdf(bounds, lower_limit=-bounds, maxpts=200_000)
    assert ours.dunnett_p(t, variants, degrees) == pytest.approx(1 - inside, abs=5e-4)


def test_one_variant_has_a_paired_t_test() -> None:
    scores = study(np.random.default_rng(1), variants=1, effect=0.05)
    verdict = ours.judge(scores, "base").verdicts["a"]
    expected = stats.ttest_rel(list(scores["a"].values()), list(scores["base"].values()))
    assert verdict.p == pytest.approx(expected.pvalue, rel=1e-6)
    low, high = expected.confidence_interval(0.95)
    assert (verdict.low, verdict.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.slow
def test_unequal_noise_takes_paired_tests_with_holms_correction() -> None:
    draw = np.random.default_rng(2)
    shared = draw.normal(3, 1, 8)
    scores = {"base": dict(enumerate(shared + draw.normal(0, 0.001, 8)))}
    for name, noise in zip(VARIANTS, (0.002, 0.002, 2.0, 0.003), strict=True):
        scores[name] = dict(enumerate(shared + draw.normal(0, noise, 8) + 0.002))
    judgement = ours.judge(scores, "base")
    assert judgement.method == "paired"
    raw = [stats.ttest_rel(list(scores[n].values()), list(scores["base"].values())).pvalue for n in VARIANTS]
    adjusted = multipletests(raw, method="holm")[1]
    assert [judgement.verdicts[name].p for name in VARIANTS] == pytest.approx(list(adjusted))


def test_equivalent_is_what_two_one_sided_tests_find() -> None:
    draw, agreed = np.random.default_rng(3), set[bool]()
    for _ in range(40):
        scores = study(draw, variants=1, seeds=6)
        found = ours.judge(scores, "base", smallest=0.12).verdicts["a"].verdict == "equivalent"
        one, other = (np.array(list(scores[name].values())) for name in ("a", "base"))
        assert found == (ttost_paired(one, other, -0.12, 0.12)[0] < 0.025)  # the interval has 95 %, not 90 %
        agreed.add(found)
    assert agreed == {True, False}


@pytest.mark.slow
def test_without_a_difference_at_most_one_study_in_twenty_finds_one() -> None:
    draw, studies = np.random.default_rng(4), 400
    found = 0
    for _ in range(studies):
        verdicts = ours.judge(study(draw), "base").verdicts.values()
        found += any(verdict.verdict in ("better", "worse") for verdict in verdicts)
    assert found <= stats.binom.ppf(0.999, studies, 0.05)
    assert found >= stats.binom.ppf(0.001, studies, 0.05)  # nor is the test far too careful


def test_a_planted_difference_is_found_with_its_direction_and_size() -> None:
    verdicts = ours.judge(study(np.random.default_rng(5), effect=-0.5, noise=0.05), "base").verdicts
    assert verdicts["a"].verdict == "better"
    assert verdicts["a"].low is not None
    assert verdicts["a"].high is not None
    assert verdicts["a"].low < -0.5 < verdicts["a"].high
    assert verdicts["a"].difference == pytest.approx(-0.5, abs=0.1)
    assert verdicts["a"].correlation is not None
    assert verdicts["a"].correlation > 0.9
    assert {verdicts[name].verdict for name in VARIANTS[1:]} == {"undecided"}
    accuracy = ours.judge(study(np.random.default_rng(5), effect=-0.5, noise=0.05), "base", higher_is_better=True)
    assert accuracy.verdicts["a"].verdict == "worse"


@pytest.mark.parametrize(("effect", "deviation", "seeds", "variants"), [(0.1, 0.1, 5, 1), (0.05, 0.1, 9, 3)])
def test_power_is_that_of_the_noncentral_t_distribution(
    effect: float, deviation: float, seeds: int, variants: int
) -> None:
    degrees = (seeds - 1) * variants
    critical, centre = stats.t.ppf(1 - 0.025 / variants, degrees), effect / deviation * math.sqrt(seeds)
    expected = stats.nct.sf(critical, degrees, centre) + stats.nct.cdf(-critical, degrees, centre)
    assert ours.power(effect, deviation, seeds, variants) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_with_the_seeds_that_are_said_to_be_needed_the_difference_is_found_most_of_the_time() -> None:
    draw = np.random.default_rng(6)
    seeds = ours.seeds_needed(0.1, 0.1 * math.sqrt(2), 4)
    found = sum(
        ours.judge(study(draw, seeds=seeds, effect=0.1), "base").verdicts["a"].verdict == "worse" for _ in range(150)
    )
    assert 0.74 < found / 150 < 0.92
    assert ours.seeds_needed(0.1, 0.0, 4) == 2
    assert ours.smallest_visible(3, 1) == pytest.approx(3.26, abs=0.05)  # a paired t test with three pairs


def test_runs_that_diverged_count() -> None:
    scores = study(np.random.default_rng(7), variants=2)
    scores["a"] = dict.fromkeys(scores["a"], math.inf)
    scores["b"] |= {0: math.nan}
    verdicts = ours.judge(scores, "base").verdicts
    assert (verdicts["a"].verdict, verdicts["a"].diverged, verdicts["a"].difference) == ("worse", 5, None)
    assert (verdicts["b"].verdict, verdicts["b"].diverged, verdicts["b"].seeds) == ("undecided", 1, 4)
    scores["base"] |= {1: math.inf}
    assert ours.judge(scores, "base").verdicts["a"].verdict == "undecided"


def test_one_seed_decides_nothing() -> None:
    judgement = ours.judge(study(np.random.default_rng(8), seeds=1, effect=10), "base", smallest=1)
    assert {verdict.verdict for verdict in judgement.verdicts.values()} == {"undecided"}
    assert judgement.noise is None
