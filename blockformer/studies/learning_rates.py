"""Choose the learning rate of each variant on tuning runs, and find a run by its id."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from statistics import mean

from blockformer.errors import UserError
from blockformer.studies.execution import Executor
from blockformer.studies.plan import TUNING_SEED, Plan
from blockformer.studies.run import Run
from blockformer.studies.run_result import Result
from blockformer.studies.study import BASE

EXTENSIONS = 3  # how often a list of learning rates grows at an edge


class UnknownRunError(UserError):
    """A study has no run of that name."""


@dataclass(frozen=True)
class Rates:
    """Learning rates that were chosen.

    Attributes:
        best: by variant; empty: the study has one for all.
        at_edge: variants whose best rate is still the lowest or highest that was tried, and which of the two.
        runs: the runs that chose them.
    """

    best: dict[str, float] = field(default_factory=dict)
    at_edge: dict[str, str] = field(default_factory=dict)
    runs: list[Result] = field(default_factory=list)


def best_rates(plan: Plan, executor: Executor, *, higher: bool) -> Rates:
    """Choose each variant's rate by its mean validation figure over the tuning seeds.

    A best rate at an edge extends the list, at most :data:`EXTENSIONS` times.

    Args:
        plan: the plan.
        executor: runs it.
        higher: whether a larger figure is better.
    """
    if not plan.study.file.learning_rates:
        return Rates()
    rates = {name: tuple(sorted(plan.study.file.learning_rates)) for name in plan.trained}
    for left in reversed(range(EXTENSIONS + 1)):
        results = executor.execute(plan.tuning_runs(rates))
        best = {name: _best_of(name, results, higher) for name in plan.trained}
        wider = {name: _extended(rates[name], best[name]) for name in plan.trained}
        if wider == rates or not left:
            return Rates(best, {name: edge for name in best if (edge := _edge(rates[name], best[name]))}, results)
        rates = wider
    raise AssertionError("unreachable: the last round returns")


def find_run(plan: Plan, run_id: str, seeds: Sequence[int]) -> Run:
    """The run of that id, among all that a study can come to: at each learning rate, extensions of the list included.

    Args:
        plan: the plan.
        run_id: the name of the run's folder.
        seeds: the plan's, and those that were added to the study.

    Raises:
        UnknownRunError: there is no such run.
    """
    rates = tuple(sorted(plan.study.file.learning_rates))
    for _ in range(EXTENSIONS if rates else 0):
        rates = _extended(_extended(rates, rates[0]), rates[-1])
    tuning = range(TUNING_SEED, TUNING_SEED + plan.study.file.tuning_seeds)
    runs = [plan.run(name, seed, rate, "tune") for name in plan.trained for rate in rates for seed in tuning]
    for rate in rates or (None,):
        runs += [plan.run(name, seed, rate, "answer") for name in plan.trained for seed in seeds]
        runs += plan.budget_runs({} if rate is None else {BASE: rate}, tuple(seeds))
    known = {run.id: run for run in runs}
    if run_id not in known:
        close = get_close_matches(run_id, known, n=1)
        listed = f"did you mean {close[0]}?" if close else f"its first is {next(iter(known))}; --plan lists all"
        raise UnknownRunError(f"--only {run_id}: this study has no such run with these settings; {listed}")
    return known[run_id]


def _best_of(variant: str, results: Sequence[Result], higher: bool) -> float:
    by_rate: dict[float, list[float]] = {}
    worst = -math.inf if higher else math.inf
    for result in results:
        if result.variant == variant and result.learning_rate is not None:
            by_rate.setdefault(result.learning_rate, []).append(worst if result.figure is None else result.figure)
    choose: Callable[..., float] = max if higher else min
    return choose(sorted(by_rate), key=lambda rate: mean(by_rate[rate]))


def _edge(rates: tuple[float, ...], best: float) -> str:
    """Whether the best rate is the lowest or the highest of the list; empty: neither."""
    return {rates[0]: "lowest", rates[-1]: "highest"}.get(best, "")


def _extended(rates: tuple[float, ...], best: float) -> tuple[float, ...]:
    """The list with one more rate beyond the edge at which the best one lies."""
    if _edge(rates, best) == "lowest":
        return (round_rate(rates[0] ** 2 / rates[1]), *rates)
    if _edge(rates, best) == "highest":
        return (*rates, round_rate(rates[-1] ** 2 / rates[-2]))
    return rates


def round_rate(rate: float) -> float:
    """Three significant digits, so that a rate has one spelling."""
    return float(f"{rate:.3g}")
