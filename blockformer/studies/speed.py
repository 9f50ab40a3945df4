"""Tokens per second and peak memory of each variant, measured in turns while no run of the study is executed."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from blockformer.errors import UserError
from blockformer.files import as_json, write_text
from blockformer.studies.claims import CLAIMS
from blockformer.studies.context import environment
from blockformer.studies.execution import WAIT, Executor
from blockformer.studies.plan import Plan, length_of_data
from blockformer.studies.run import digest
from blockformer.studies.stored_files import read_stored
from blockformer.studies.study import BASE
from blockformer.studies.training_step import TrainingStep, peak_memory
from blockformer.training.run_lock import RunLock
from registry import Recipe

SPEED = "speed.json"
ROUNDS = 5
SHORTEST = 0.3  # seconds of a turn of the base
STEPS = (3, 100)  # fewest and most steps in a turn
When = Literal["once", "again", "never"]
_HOW = ("rounds", "steps of a turn")


@dataclass(frozen=True)
class Speed:
    """How fast a variant trains, and what it takes.

    Attributes:
        tokens_per_second: the median over rounds.
        relative: the median over rounds of its speed in terms of the base's in the same round.
        relative_low, relative_high: the lowest and highest of them.
        peak_memory: bytes that training steps allocate at most.
        rounds: tokens per second in each round.
    """

    tokens_per_second: float
    relative: float
    relative_low: float
    relative_high: float
    peak_memory: int
    rounds: list[float]

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class _Stored:
    """What was measured, and for which variants and settings."""

    key: str
    speed: dict[str, Speed]
    speed_environment: dict[str, str | int]


_STORED = TypeAdapter(_Stored)


def speed_of(plan: Plan, executor: Executor, place: Path, when: When) -> dict[str, Any]:
    """The entries `speed`, by variant, and `speed_environment` of a study's results; measured once in a study's folder.

    Args:
        plan: the plan, all of whose runs have ended.
        executor: executes the measurement where it executes runs.
        place: folder of the results.
        when: `once`; `again`, although it has been measured; `never`.
    """
    if when == "never":
        return {}
    length = length_of_data(plan.study)
    recipes = {name: plan.variants[name].recipe for name in plan.trained}
    key = digest([{name: recipe.hash for name, recipe in recipes.items()}, plan.study.file.fit, length])
    before = _read(place, key)
    while when == "again" or before is None:
        try:
            lock = RunLock(executor.folder / CLAIMS / "speed", quiet=True)
        except UserError:
            time.sleep(WAIT)  # another process measures
            when, before = "once", _read(place, key)
            continue
        try:
            before = None if when == "again" else _read(place, key)
            if before is None:
                before = executor.call(partial(measured, recipes, plan.study.file.fit, length))
                write_text(place / SPEED, as_json({"key": key, **before}, indent=1))
        except Exception as error:  # of any kind, such as too little memory: the verdicts do not depend on it
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"note: the speed could not be measured: {reason}", file=sys.stderr)
            return {}
        finally:
            lock.release()
        break
    return before


def measured(recipes: Mapping[str, Recipe], fit: Mapping[str, Mapping[str, Any]], length: int) -> dict[str, Any]:
    """Measure training steps of all variants, in rounds of one turn each.

    Args:
        recipes: by variant, the base among them.
        fit: the study's settings.
        length: tokens of a sequence.
    """
    memory = {name: peak_memory(recipe, fit, length) for name, recipe in recipes.items()}
    steps, rates = STEPS[0], {name: list[float]() for name in recipes}
    for turn in range(ROUNDS + 1):
        for name, recipe in recipes.items():
            step = TrainingStep(recipe, fit, length)
            step()  # warms up
            seconds = _seconds(step, steps)
            if turn:
                rates[name].append(steps * step.tokens / seconds)
            elif name == BASE:  # the first round finds out how many steps a turn needs
                steps = min(STEPS[1], max(STEPS[0], round(steps * SHORTEST / seconds)))
            del step
    ratios = {name: [one / base for one, base in zip(of, rates[BASE], strict=True)] for name, of in rates.items()}
    return {
        "speed": {
            name: vars(
                Speed(
                    median(rates[name]),
                    median(ratios[name]),
                    min(ratios[name]),
                    max(ratios[name]),
                    memory[name],
                    rates[name],
                )
            )
            for name in recipes
        },
        "speed_environment": environment() | dict(zip(_HOW, (ROUNDS, steps), strict=True)),
    }


def _seconds(step: Callable[[], None], times: int) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        step()
    return time.perf_counter() - begun


def _read(place: Path, key: str) -> dict[str, Any] | None:
    """What was measured for these variants and settings; None: nothing, or it is damaged and measured anew."""
    try:
        found = read_stored(place, SPEED, _STORED, "")
    except (FileNotFoundError, UserError):
        return None
    if found.key != key or not {*environment(), *_HOW} <= found.speed_environment.keys():
        return None
    return {key: value for key, value in asdict(found).items() if key != "key"}
