"""Which variant is better: differences to a base over seeds, with simultaneous intervals, and a verdict for each.

The model is ``loss = variant + seed + error``: runs of one seed share initial values and batches, so differences are
taken within a seed. The noise is pooled over all variants, and each variant is compared with the base by Dunnett's test
(Dunnett 1955, "A multiple comparison procedure for comparing several treatments with a control"). Where the noise of
the variants differs strongly, each has a paired t test of its own, corrected by Holm's method (Holm 1979), and
simultaneous intervals of Bonferroni's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, cast

import numpy as np
from scipy import optimize, special, stats

Outcome = Literal["better", "worse", "equivalent", "undecided", "identical"]
Method = Literal["dunnett", "paired"]
Scores = Mapping[int, float]  # of one variant, by seed; not finite: the run diverged

LEVEL = 0.95  # of the intervals, for all variants together
POWER = 0.8
NOISE_LIMIT = 0.8  # confidence with which the noise is at most the upper figure that seeds are planned with
UNEQUAL = 0.01  # significance at which the noise of the variants counts as different
MOST_SEEDS = 1000
UNKNOWN = 30  # seeds that unknown noise takes at most, beyond those that known noise does
NODES = 64  # of the quadratures of Dunnett's distribution; 64 give 1e-9
UNIFORM, UNIFORM_WEIGHTS = np.polynomial.legendre.leggauss(NODES)
NORMAL, NORMAL_WEIGHTS = np.polynomial.hermite_e.hermegauss(NODES)


@dataclass(frozen=True)
class Verdict:
    """How one variant compares with the base.

    Attributes:
        verdict: ``better`` or ``worse``: the interval excludes zero; ``equivalent``: it lies within ``smallest``;
            ``undecided``: neither; ``identical``: variant and base are the same model.
        difference: mean over seeds of variant minus base; None if no seed has both.
        low: lower end of the simultaneous 95 % interval; None with fewer than two seeds.
        high: upper end.
        p: probability of a difference as large for any of the variants if none differs (family-wise).
        seeds: pairs of finished runs.
        diverged: runs of this variant that diverged.
        correlation: of variant and base over seeds; None with fewer than three seeds.
        needed: seeds that would probably decide, at the observed noise and at its upper 80 % limit; None unless
            undecided.
    """

    verdict: Outcome
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    seeds: int = 0
    diverged: int = 0
    correlation: float | None = None
    needed: tuple[int, int] | None = None


@dataclass(frozen=True)
class Judgement:
    """The verdicts of a study.

    Attributes:
        verdicts: by variant.
        method: ``dunnett`` (pooled noise) or ``paired`` (own noise of each variant, Holm).
        noise: standard deviation of the error of one run, pooled; None with fewer than two seeds.
        degrees: degrees of freedom of ``noise``.
    """

    verdicts: dict[str, Verdict]
    method: Method
    noise: float | None
    degrees: int


@dataclass(frozen=True)
class _Interval:
    low: float
    high: float
    p: float
    deviation: float  # of the difference of a pair of runs
    degrees: int


def judge(
    scores: Mapping[str, Scores], base: str, *, smallest: float | None = None, higher_is_better: bool = False
) -> Judgement:
    """Compare all variants with the base.

    A variant of which all runs diverged is worse than a base of which none did; if only some runs did, of either, no
    verdict is given.

    Args:
        scores: by variant and seed.
        base: the variant that the others are compared with.
        smallest: a difference below this does not matter; None: no variant is found equivalent.
        higher_is_better: whether a high score is good.
    """
    others = [name for name in scores if name != base]
    pairs = {name: differences(scores[name], scores[base]) for name in others}
    testable = {name: values for name, values in pairs.items() if len(values) > 1}
    method: Method = "paired" if _noise_is_unequal(list(testable.values())) else "dunnett"
    noise, degrees = pooled_noise([scores[base], *(scores[name] for name in testable)])
    intervals = _paired(testable) if method == "paired" else _dunnett(testable, noise, degrees)
    verdicts = {name: _described(scores[name], scores[base], pairs[name]) for name in others}
    for name, interval in intervals.items():
        verdicts[name] = replace(verdicts[name], low=interval.low, high=interval.high, p=interval.p)
        if verdicts[name].diverged or _diverged(scores[base]):
            continue
        outcome = _outcome(interval, smallest, higher_is_better)
        needed = _needed(interval, pairs[name], smallest, len(testable)) if outcome == "undecided" else None
        verdicts[name] = replace(verdicts[name], verdict=outcome, needed=needed)
    return Judgement(verdicts, method, noise if testable else None, degrees)


def differences(variant: Scores, base: Scores) -> np.ndarray:
    """Variant minus base for each seed of which both runs finished."""
    seeds = [seed for seed in variant if seed in base and math.isfinite(variant[seed]) and math.isfinite(base[seed])]
    return np.array([variant[seed] - base[seed] for seed in sorted(seeds)])


def pooled_noise(scores: Sequence[Scores]) -> tuple[float, int]:
    """Standard deviation of a run around ``variant + seed``, and its degrees of freedom.

    Seeds of which a run is missing or diverged are left out; (nan, 0) if fewer than two are whole.
    """
    common = set.intersection(*(set(of) for of in scores)) if scores else set[int]()
    seeds = sorted(seed for seed in common if all(math.isfinite(of[seed]) for of in scores))
    if len(seeds) < 2 or len(scores) < 2:
        return math.nan, 0
    table = np.array([[of[seed] for seed in seeds] for of in scores])
    residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    degrees = (len(seeds) - 1) * (len(scores) - 1)
    return float(np.sqrt((residuals**2).sum() / degrees)), degrees


def dunnett_p(t: float, variants: int, degrees: float) -> float:
    """Probability that the largest |t| of ``variants`` comparisons with one base reaches ``t`` if none differs.

    The comparisons have correlation 1/2, as all contain the base. Then the multivariate t distribution is an integral
    over two numbers, the base's and the noise's (Dunnett 1955, equation 3), which converges faster and closer than a
    general integration.
    """
    if variants == 1:
        return float(2 * stats.t.sf(abs(t), degrees))
    scale = _noise_quantiles(degrees)[:, None] * abs(t) * math.sqrt(2)
    inside = (special.ndtr(NORMAL + scale) - special.ndtr(NORMAL - scale)) ** variants
    within = (inside * NORMAL_WEIGHTS).sum(1) / math.sqrt(2 * math.pi)
    return float(min(1.0, max(0.0, 1 - (within * UNIFORM_WEIGHTS).sum() / 2)))


@lru_cache(maxsize=4096)
def _noise_quantiles(degrees: float) -> np.ndarray:
    """Estimated over true standard deviation at the nodes of a quadrature over its distribution function."""
    return np.sqrt(stats.chi2.ppf((UNIFORM + 1) / 2, degrees) / degrees)


@lru_cache(maxsize=64)
def dunnett_critical(variants: int, degrees: float, level: float = LEVEL) -> float:
    """The |t| that the largest of ``variants`` comparisons exceeds with probability ``1 - level`` if none differs."""
    if variants == 1:
        return float(stats.t.ppf((1 + level) / 2, degrees))
    return _root(lambda t: dunnett_p(t, variants, degrees) - (1 - level), 1e-3, 1e4)


def seeds_needed(effect: float, deviation: float, variants: int, level: float = LEVEL) -> int:
    """Seeds with which a paired difference of ``effect`` is found with 80 % probability, at most 1,000.

    Args:
        effect: the true difference of the means.
        deviation: standard deviation of the difference of a pair of runs.
        variants: compared with the base at once.
        level: of the simultaneous intervals.
    """
    if effect <= 0:
        return MOST_SEEDS
    tails = stats.norm.isf((1 - level) / 2 / variants) + stats.norm.ppf(POWER)
    normal = math.ceil((tails * deviation / effect) ** 2)  # with known noise; unknown noise takes a few more
    low, high = max(1, min(normal - 1, MOST_SEEDS - 1)), min(max(normal + UNKNOWN, 2), MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        found = power(effect, deviation, middle, variants, level) >= POWER
        low, high = (low, middle) if found else (middle, high)
    return high


def power(effect: float, deviation: float, seeds: int, variants: int, level: float = LEVEL) -> float:
    """Probability of finding a paired difference of ``effect``, from the noncentral t distribution.

    It is integrated here over the noise's distribution, as scipy's returns NaN where the effect is large.
    """
    degrees = (seeds - 1) * variants
    critical = stats.t.ppf(1 - (1 - level) / 2 / variants, degrees)  # Bonferroni's, slightly above Dunnett's
    centre = effect / deviation * math.sqrt(seeds) if deviation > 0 else math.inf
    limits = critical * _noise_quantiles(degrees)
    missed = special.ndtr(limits - centre) - special.ndtr(-limits - centre)
    return float(1 - (missed * UNIFORM_WEIGHTS).sum() / 2)


def smallest_visible(seeds: int, variants: int, level: float = LEVEL) -> float:
    """The difference found with 80 % probability, in standard deviations of the difference of a pair of runs."""
    if seeds < 2:
        return math.inf
    return _root(lambda effect: power(effect, 1.0, seeds, variants, level) - POWER, 1e-6, 1e3)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(cast("float", optimize.brentq(function, low, high)))


def _needed(interval: _Interval, pair: np.ndarray, smallest: float | None, variants: int) -> tuple[int, int]:
    effect = smallest or abs(float(pair.mean()))
    limit = interval.deviation * math.sqrt(interval.degrees / stats.chi2.ppf(1 - NOISE_LIMIT, interval.degrees))
    return (
        seeds_needed(effect, interval.deviation, variants),
        seeds_needed(effect, float(limit), variants),
    )


def _dunnett(pairs: Mapping[str, np.ndarray], noise: float, degrees: int) -> dict[str, _Interval]:
    if not pairs or not degrees:
        return _paired(pairs)
    deviation, critical = noise * math.sqrt(2), dunnett_critical(len(pairs), degrees)
    result: dict[str, _Interval] = {}
    for name, values in pairs.items():
        mean, error = float(values.mean()), deviation / math.sqrt(len(values))
        p = dunnett_p(mean / error, len(pairs), degrees) if error > 0 else float(mean == 0)
        result[name] = _Interval(mean - critical * error, mean + critical * error, p, deviation, degrees)
    return result


def _paired(pairs: Mapping[str, np.ndarray]) -> dict[str, _Interval]:
    """Paired t tests with Holm's correction of p; the intervals have Bonferroni's level, which is never narrower."""
    raw: dict[str, float] = {}
    for name, values in pairs.items():
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
        t = abs(float(values.mean())) / error if error > 0 else math.inf if values.mean() else 0.0
        raw[name] = float(2 * stats.t.sf(t, len(values) - 1))
    adjusted, reached = dict[str, float](), 0.0
    for rank, name in enumerate(sorted(raw, key=raw.__getitem__)):
        reached = max(reached, min(1.0, raw[name] * (len(raw) - rank)))
        adjusted[name] = reached
    result: dict[str, _Interval] = {}
    for name, values in pairs.items():
        mean, deviation, degrees = float(values.mean()), float(values.std(ddof=1)), len(values) - 1
        critical = float(stats.t.ppf(1 - (1 - LEVEL) / 2 / len(pairs), degrees))
        half = critical * deviation / math.sqrt(len(values))
        result[name] = _Interval(mean - half, mean + half, adjusted[name], deviation, degrees)
    return result


def _noise_is_unequal(pairs: Sequence[np.ndarray]) -> bool:
    """Whether the largest variance of the differences exceeds the smallest by more than chance among all pairs."""
    if len(pairs) < 2:
        return False
    variances = sorted((float(values.var(ddof=1)), len(values) - 1) for values in pairs)
    (small, df_small), (large, df_large) = variances[0], variances[-1]
    comparisons = len(pairs) * (len(pairs) - 1)
    limit = float(stats.f.isf(UNEQUAL / comparisons, df_large, df_small))
    return large > limit * small


def _outcome(interval: _Interval, smallest: float | None, higher_is_better: bool) -> Outcome:
    if smallest is not None and -smallest < interval.low and interval.high < smallest:
        return "equivalent"
    if interval.p >= 1 - LEVEL:
        return "undecided"
    return "better" if (interval.low + interval.high > 0) == higher_is_better else "worse"


def _described(variant: Scores, base: Scores, pair: np.ndarray) -> Verdict:
    """All but the test: a variant of which every run diverged is worse than a base of which none did."""
    lost = _diverged(variant)
    both = [seed for seed in variant if seed in base and math.isfinite(variant[seed]) and math.isfinite(base[seed])]
    correlation = None
    if len(both) > 2:
        table = np.array([[variant[seed], base[seed]] for seed in both])
        if (table.std(0) > 0).all():
            correlation = float(np.corrcoef(table.T)[0, 1])
    everything = lost > 0 and lost == len(variant) and not _diverged(base)
    return Verdict(
        "worse" if everything else "undecided",
        difference=float(pair.mean()) if len(pair) else None,
        seeds=len(pair),
        diverged=lost,
        correlation=correlation,
    )


def _diverged(scores: Scores) -> int:
    return sum(not math.isfinite(score) for score in scores.values())
