"""The results of a study: learning rates, verdicts, and everything that the reports show, as plain data."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import TypeAdapter

from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.studies.commands import RUNS
from blockformer.studies.context import differences, environment
from blockformer.studies.documents import Losses, resampled, stored_losses
from blockformer.studies.exchange import base_curve, worth
from blockformer.studies.execution import Executor
from blockformer.studies.figures import higher_is_better
from blockformer.studies.learning_rates import best_rates, find_run
from blockformer.studies.plan import Plan
from blockformer.studies.run_result import Result
from blockformer.studies.speed import When, speed_of
from blockformer.studies.statistics import Verdict, judge
from blockformer.studies.stored_files import read_stored
from blockformer.studies.study import BASE, Study
from blockformer.studies.study_file import SEEDS

PLAN, LOOKS, RESULTS_FILE, DOCUMENTS = "plan.json", "looks.json", "results.json", "documents"
Results = dict[str, Any]
MOST_SEEDS = 1000  # that are added at once


@dataclass(frozen=True)
class _Registered:
    """The plan as it was when the first run began."""

    hash: str
    content: dict[str, Any]


@dataclass(frozen=True)
class _Looked:
    """The part of earlier results that a continued study needs."""

    looks: list[list[int]] = field(default_factory=list[list[int]])


_REGISTERED, _LOOKED, _LOOKS = TypeAdapter(_Registered), TypeAdapter(_Looked), TypeAdapter(list[list[int]])


def run_study(
    plan: Plan, executor: Executor, place: Path, *, command: Sequence[str] = (), speed: When = "once"
) -> Results:
    """Execute a plan in its folder and judge the variants. What has been done is not repeated.

    Args:
        plan: the plan.
        executor: runs it, in the study's folder.
        place: folder of the results; that of the executor unless several tasks share their runs.
        command: what repeats the study.
        speed: whether to measure the speed of the variants, after all runs.

    Raises:
        RunFailedError: a run failed.
    """
    registered = _registered(plan, place)
    looks = looks_at(plan.study, place)
    rates = best_rates(plan, executor, higher=higher_is_better(plan.study.file.figure, plan.study.file.fit))
    seeds = tuple(seed for look in looks for seed in look)
    runs = [*plan.answer_runs(rates.best, seeds), *plan.budget_runs(rates.best, seeds)]
    executed = executor.execute(runs)
    answers = [result for result in executed if result.purpose == "answer"]
    share = {run.id: run.budget for run in runs}
    curve = base_curve(answers, [(share[one.id], one) for one in executed if one.purpose == "budget"], BASE)
    results = judged(plan, answers, looks=looks)
    results["exchange"] = {
        "base": curve,
        "worth": {name: worth(curve, of) for name, of in results["verdicts"].items()} if curve[1:] else {},
    }
    results["documents"] = _over_documents(plan, executor, answers)
    results |= {
        "plan": plan.as_data(),
        "exploratory": registered.hash != plan.hash,
        "changed": _changed(registered.content, plan.content()),
        "learning_rates": rates.best,
        "rates_at_edge": rates.at_edge,
        "tuning": [asdict(result) for result in rates.runs],
        "command": list(command),
        "differences": differences(plan),
        "environment": environment(executor.workers),
    }
    results |= speed_of(plan, executor, place, speed)
    write_text(place / RESULTS_FILE, json.dumps(results, indent=1, allow_nan=False))
    return results


def run_one(plan: Plan, executor: Executor, place: Path, run_id: str) -> Result:
    """Execute one run of a study and store its result, without a judgement; what has a result is not repeated.

    Args:
        plan: the plan.
        executor: runs it, in the study's folder.
        place: folder of the results.
        run_id: the run's.

    Raises:
        UserError: the study has no such run.
        RunFailedError: it failed.
    """
    looks = looks_at(plan.study, place)
    run = find_run(plan, run_id, [seed for look in looks for seed in look])
    _registered(plan, place)
    return executor.execute([run])[0]


def judged(plan: Plan, answers: Sequence[Result], *, looks: Sequence[Sequence[int]]) -> Results:
    """The verdicts over finished runs, with the runs and figures that they rest on."""
    file = plan.study.file
    scores = {name: scores_of(name, answers) for name in plan.trained}
    higher = higher_is_better(file.figure, file.fit)
    judgement = judge(scores, BASE, smallest=file.smallest, higher_is_better=higher)
    verdicts = {name: asdict(verdict) for name, verdict in judgement.verdicts.items()}
    verdicts |= {name: asdict(Verdict("identical", 0.0, 0.0, 0.0, 1.0)) for name in plan.identical}
    return {
        "study": plan.study.name,
        "label": plan.study.label,
        "group": plan.study.group,
        "question": file.question,
        "limits": file.limits,
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


def _over_documents(plan: Plan, executor: Executor, answers: Sequence[Result]) -> dict[str, dict[str, float] | None]:
    """By variant, the interval of its difference over resampled documents; None: not to be had."""
    figure, trainer = plan.study.file.figure, plan.study.file.fit.get("trainer", {})
    stage, _, name = figure.partition("/")
    split, limit = ("test", "limit_test_batches") if stage == "test" else ("validation", "limit_val_batches")
    found: dict[str, dict[int, Losses]] = {}
    of_all = stage in ("val", "test") and "@" not in name and "/" not in name  # not of a source, nor of an evaluation
    for result in answers if of_all else ():
        store = executor.folder / DOCUMENTS / f"{result.id}.{split}.json"
        if result.figure is not None:
            losses = stored_losses(executor.folder / RUNS / result.id, store, split, trainer.get(limit))
            if losses is not None:
                found.setdefault(result.variant, {})[result.seed] = losses
    intervals: dict[str, dict[str, float] | None] = {}
    for variant in (other for other in plan.trained if other != BASE):
        seeds = sorted({*found.get(variant, {})} & {*found.get(BASE, {})})
        of, base = ([found[one][seed] for seed in seeds] for one in (variant, BASE))
        intervals[variant] = resampled(of, base, name) if seeds else None
    return intervals


def scores_of(variant: str, results: Sequence[Result]) -> dict[int, float]:
    """A variant's figure by seed; infinite: the run diverged."""
    return {r.seed: math.inf if r.figure is None else r.figure for r in results if r.variant == variant}


def _mean(scores: Mapping[int, float]) -> float | None:
    finite = [score for score in scores.values() if math.isfinite(score)]
    return mean(finite) if finite else None


def _registered(plan: Plan, folder: Path) -> _Registered:
    """The plan as it was when the first run began; written once."""
    try:
        return _plan_in(folder)
    except FileNotFoundError:
        data = {"hash": plan.hash, "content": plan.content(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_text(folder / PLAN, json.dumps(data, indent=1, sort_keys=True))
        return _plan_in(folder)


def _plan_in(folder: Path) -> _Registered:
    remedy = "restore it, or remove it, and the study is taken as it is now for what was planned"
    return read_stored(folder, PLAN, _REGISTERED, remedy)


def looks_at(study: Study, folder: Path, add_seeds: int = 0) -> list[list[int]]:
    """The seeds of each look at the results: the study's, then those added later.

    Seeds are added only when the results of all looks so far have been written. Otherwise the call finishes what an
    earlier one began, so that a stopped `--add-seeds` can be repeated.

    Args:
        study: the study.
        folder: its folder.
        add_seeds: how many to add.

    Raises:
        UserError: what the folder holds is damaged, or there are too many seeds.
    """
    first, added = list(study.seeds), list[list[int]]()
    with suppress(FileNotFoundError):
        added = read_stored(folder, LOOKS, _LOOKS, "restore it, or remove it and add the seeds again")
    looks = [first, *filter(None, ([seed for seed in look if seed not in first] for look in added))]
    if add_seeds and not unfinished_look(folder, looks):
        last = max(seed for look in looks for seed in look)
        if add_seeds > MOST_SEEDS or last + add_seeds >= SEEDS:
            most = min(MOST_SEEDS, SEEDS - 1 - last)
            raise UserError(f"--add-seeds {add_seeds}: at most {most} can be added")
        looks.append(list(range(last + 1, last + 1 + add_seeds)))
        write_text(folder / LOOKS, json.dumps(looks[1:]))
    return looks


def unfinished_look(folder: Path, looks: Sequence[list[int]]) -> list[int]:
    """The seeds of the first look that the results in the folder do not rest on; empty: there is none."""
    looked: list[list[int]] = []
    with suppress(FileNotFoundError):
        looked = read_stored(folder, RESULTS_FILE, _LOOKED, "remove it, and repeat the command").looks
    return next((look for index, look in enumerate(looks) if looked[index : index + 1] != [look]), [])


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Top-level keys of the plan that differ from the registered one."""
    return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
