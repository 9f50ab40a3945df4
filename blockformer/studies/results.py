"""The results of a study: learning rates, verdicts, and everything that the reports show, as plain data."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.studies.execution import Executor, Result
from blockformer.studies.plan import Plan
from blockformer.studies.statistics import Verdict, judge
from blockformer.studies.study import BASE
from blockformer.training.score import BETTER

EXTENSIONS = 3  # how often a list of learning rates grows at an edge
PLAN, LOOKS, RESULTS_FILE = "plan.json", "looks.json", "results.json"
Results = dict[str, Any]


def higher_is_better(figure: str) -> bool:
    """Whether a larger value of a figure such as `val/accuracy` is better."""
    return BETTER.get(figure.partition("/")[2], min) is max


def run_study(plan: Plan, executor: Executor, *, add_seeds: int = 0, command: Sequence[str] = ()) -> Results:
    """Execute a plan in its folder and judge the variants. What has been done is not repeated.

    Args:
        plan: the plan.
        executor: runs it, in the study's folder.
        add_seeds: further seeds; those of the plan are the first look at the data.
        command: what repeats the study.

    Raises:
        RunFailedError: a run failed.
    """
    registered = _registered(plan, executor.folder)
    looks = _looks(plan, executor.folder, add_seeds)
    best, tuning = _best_rates(plan, executor)
    seeds = tuple(seed for look in looks for seed in look)
    answers = executor.execute(plan.answer_runs(best, seeds))
    results = judged(plan, answers, looks=looks, best=best)
    results |= {
        "plan": plan.as_data(),
        "exploratory": registered["hash"] != plan.hash,
        "changed": _changed(registered["content"], plan.content()),
        "learning_rates": best,
        "tuning": [asdict(result) for result in tuning],
        "command": list(command),
    }
    write_text(executor.folder / RESULTS_FILE, json.dumps(results, indent=1, allow_nan=False))
    return results


def judged(
    plan: Plan, answers: Sequence[Result], *, looks: Sequence[Sequence[int]], best: Mapping[str, float] | None = None
) -> Results:
    """The verdicts over finished runs, with the runs and figures that they rest on."""
    file = plan.study.file
    scores = {name: scores_of(name, answers) for name in plan.trained}
    judgement = judge(scores, BASE, smallest=file.smallest, higher_is_better=higher_is_better(file.figure))
    verdicts = {name: asdict(verdict) for name, verdict in judgement.verdicts.items()}
    verdicts |= {name: asdict(Verdict("identical", 0.0, 0.0, 0.0, 1.0)) for name in plan.identical}
    return {
        "study": plan.study.name,
        "question": file.question,
        "figure": file.figure,
        "smallest": file.smallest,
        "tier": plan.study.tier,
        "verdicts": {name: verdicts[name] for name in plan.variants if name != BASE},
        "means": {name: _mean(of) for name, of in scores.items()},
        "method": judgement.method,
        "noise": judgement.noise if judgement.noise is not None and math.isfinite(judgement.noise) else None,
        "degrees": judgement.degrees,
        "looks": [list(look) for look in looks],
        "runs": [asdict(result) for result in answers],
    }


def scores_of(variant: str, results: Sequence[Result]) -> dict[int, float]:
    """A variant's figure by seed; infinite: the run diverged."""
    return {r.seed: math.inf if r.figure is None else r.figure for r in results if r.variant == variant}


def _mean(scores: Mapping[int, float]) -> float | None:
    finite = [score for score in scores.values() if math.isfinite(score)]
    return mean(finite) if finite else None


def _registered(plan: Plan, folder: Path) -> dict[str, Any]:
    """The plan as it was when the first run began; written once."""
    path = folder / PLAN
    if not path.is_file():
        data = {"hash": plan.hash, "content": plan.content(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_text(path, json.dumps(data, indent=1, sort_keys=True))
    return _read(path)


def _looks(plan: Plan, folder: Path, add_seeds: int) -> list[list[int]]:
    """The seeds of each look at the results: the plan's, then those added later."""
    path = folder / LOOKS
    added: list[list[int]] = _read(path) if path.is_file() else []
    if add_seeds:
        taken = {*plan.study.seeds, *(seed for look in added for seed in look)}
        added.append(list(range(max(taken) + 1, max(taken) + 1 + add_seeds)))
        write_text(path, json.dumps(added))
    return [list(plan.study.seeds), *added]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is damaged: {error}") from error


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Top-level keys of the plan that differ from the registered one."""
    return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))


def _best_rates(plan: Plan, executor: Executor) -> tuple[dict[str, float], list[Result]]:
    """The best learning rate of each variant; a best rate at the edge of the list extends the list.

    The rates are chosen by the mean validation figure over seeds that answer nothing.
    """
    if not plan.study.file.learning_rates:
        return {}, []
    rates = {name: tuple(sorted(plan.study.file.learning_rates)) for name in plan.trained}
    higher = higher_is_better(plan.study.file.figure)
    for left in reversed(range(EXTENSIONS + 1)):
        results = executor.execute(plan.tuning_runs(rates))
        best = {name: _best_of(name, results, higher) for name in plan.trained}
        wider = {name: _extended(rates[name], best[name]) for name in plan.trained}
        if wider == rates or not left:
            return best, results
        rates = wider
    raise AssertionError("unreachable: the last round returns")


def _best_of(variant: str, results: Sequence[Result], higher: bool) -> float:
    by_rate: dict[float, list[float]] = {}
    worst = -math.inf if higher else math.inf
    for result in results:
        if result.variant == variant and result.learning_rate is not None:
            by_rate.setdefault(result.learning_rate, []).append(worst if result.figure is None else result.figure)
    choose: Callable[..., float] = max if higher else min
    return choose(sorted(by_rate), key=lambda rate: mean(by_rate[rate]))


def _extended(rates: tuple[float, ...], best: float) -> tuple[float, ...]:
    """The list with one more rate beyond the edge at which the best one lies."""
    if best == rates[0]:
        return (round_rate(rates[0] ** 2 / rates[1]), *rates)
    if best == rates[-1]:
        return (*rates, round_rate(rates[-1] ** 2 / rates[-2]))
    return rates


def round_rate(rate: float) -> float:
    """Three significant digits, so that a rate has one spelling."""
    return float(f"{rate:.3g}")
