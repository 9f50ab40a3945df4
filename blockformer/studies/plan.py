"""Everything that a study will run, with sizes and costs, before anything is trained."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from blockformer.assembly import build, check
from blockformer.studies.fit_settings import DEFAULT_BATCH, DEFAULT_LENGTH
from blockformer.studies.matching import Matched, active_parameters, matched, size_of
from blockformer.studies.run import Purpose, Run, digest
from blockformer.studies.statistics import smallest_visible
from blockformer.studies.study import BASE, Study
from blockformer.training.optimizers import OptimizerSettings
from blocks.models.base import Model
from registry import Problem, RecipeError

BUDGETS = (0.8, 1.25)  # of the steps, with which the base shows what steps are worth
TUNING_SEED = 1_000_003  # seeds from here on choose learning rates, so that no run both chooses and answers
MEASURED_STEPS = 3
BACKWARD = 3  # a step costs about three forward passes
COMPARED_WHOLE = 200_000_000  # parameters up to which initial values are compared number by number


@dataclass(frozen=True)
class Figures:
    """Size and cost of one variant.

    Attributes:
        parameters, non_embedding, active: numbers of parameters.
        flops: of a forward pass, for a token.
        cache: bytes for one sequence; None: the model has no cache.
        shared: share of its parameters that start bit-identical to the base's; None: too large to compare.
        matched: keys that matching has set.
        off: relative difference of the matched size.
        seconds: estimated, of one run; None: not measured.
        memory: bytes of weights, gradients and optimizer state.
        steps: of a run.
    """

    parameters: int
    non_embedding: int
    active: int
    flops: float
    cache: int | None
    shared: float | None
    matched: dict[str, int]
    off: float
    memory: int
    steps: int
    seconds: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a study runs.

    Attributes:
        study: the study.
        variants: by name, the base first.
        figures: size and cost by variant.
        identical: variants that build the same model as the base; they are not trained.
    """

    study: Study
    variants: dict[str, Matched]
    figures: dict[str, Figures]
    identical: tuple[str, ...]

    @property
    def trained(self) -> list[str]:
        """The variants that are trained."""
        return [name for name in self.variants if name not in self.identical]

    @property
    def hash(self) -> str:
        """Of everything that a result depends on; fixed when the first run begins."""
        return digest(self.content())

    def content(self) -> dict[str, Any]:
        """What the hash is taken of."""
        file = self.study.file
        return {
            "base": self.variants[BASE].recipe.hash,
            "variants": {name: found.recipe.hash for name, found in self.variants.items() if name != BASE},
            "fit": file.fit,
            "figure": file.figure,
            "smallest": file.smallest,
            "seeds": list(self.study.seeds),
            "vary": list(file.vary),
            "learning_rates": list(file.learning_rates),
            "match": json.loads(file.match.model_dump_json()),
            **({"tuning_seeds": file.tuning_seeds} if file.learning_rates else {}),
            **({} if file.budget is None else {"budget": file.budget.model_dump(exclude_unset=True)}),
        }

    def tuning_runs(self, rates: Mapping[str, tuple[float, ...]] | None = None) -> list[Run]:
        """The runs that choose learning rates.

        Args:
            rates: by variant, where a best rate at the edge has extended the list.
        """
        seeds = range(TUNING_SEED, TUNING_SEED + self.study.file.tuning_seeds)
        chosen = rates or dict.fromkeys(self.trained, self.study.file.learning_rates)
        return [self.run(name, seed, rate, "tune") for name in self.trained for rate in chosen[name] for seed in seeds]

    def answer_runs(self, best: Mapping[str, float] | None = None, seeds: tuple[int, ...] | None = None) -> list[Run]:
        """The runs that are compared, seed by seed, so that an unfinished study has whole seeds.

        Args:
            best: learning rate of each variant; None: that of the study's `fit`.
            seeds: None: the study's.
        """
        found = self.study.seeds if seeds is None else seeds
        return [self.run(name, seed, (best or {}).get(name), "answer") for seed in found for name in self.trained]

    def budget_runs(self, best: Mapping[str, float] | None = None, seeds: tuple[int, ...] | None = None) -> list[Run]:
        """Runs of the base with fewer and more steps, from which the exchange rate of loss and steps is known."""
        if not self.study.file.exchange_rate:
            return []
        found, rate = self.study.seeds if seeds is None else seeds, (best or {}).get(BASE)
        return [self.run(BASE, seed, rate, "budget", budget) for seed in found for budget in BUDGETS]

    def planned_runs(self) -> list[Run]:
        """All runs, as far as they are known before the learning rates are chosen."""
        return [
            *(self.tuning_runs() if self.study.file.learning_rates else ()),
            *self.answer_runs(),
            *self.budget_runs(),
        ]

    def run(self, variant: str, seed: int, rate: float | None, purpose: Purpose, budget: float = 1.0) -> Run:
        """One run of the plan."""
        file, vary = self.study.file, self.study.file.vary
        settings: dict[str, Any] = json.loads(json.dumps(file.fit))
        settings["recipe"] = self.variants[variant].recipe.dump()
        settings["seed_everything"] = seed if "dropout" in vary else 0
        settings.setdefault("model", {})["seed"] = seed if "initial" in vary else 0
        settings.setdefault("data", {})["seed"] = seed if "order" in vary else 0
        if rate is not None:
            settings.setdefault("optimizer", {})["lr"] = rate
        steps = self.figures[variant].steps
        settings.setdefault("trainer", {})["max_steps"] = steps if budget == 1 else max(1, round(steps * budget))
        return Run(variant, seed, rate, purpose, settings, budget)

    def seconds(self) -> float | None:
        """Estimated time of all runs one after another; None: nothing was measured."""
        each = [(self.figures[run.variant].seconds, run.budget) for run in self.planned_runs()]
        return None if any(of is None for of, _ in each) else sum((of or 0.0) * budget for of, budget in each)

    def visible(self) -> float:
        """The smallest difference found with 80 % probability, in standard deviations of a difference within a seed."""
        others = len(self.trained) - 1
        return smallest_visible(len(self.study.seeds), others) if others else math.inf

    def as_data(self) -> dict[str, Any]:
        """All figures and runs as plain data."""
        listed = [
            {"id": run.id, "variant": run.variant, "seed": run.seed, "purpose": run.purpose}
            for run in self.planned_runs()
        ]
        return {
            "hash": self.hash,
            "content": self.content(),
            "variants": {name: asdict(figures) for name, figures in self.figures.items()},
            "identical": list(self.identical),
            "runs": listed,
            "visible": self.visible() if math.isfinite(self.visible()) else None,
            "seconds": self.seconds(),
        }


def make_plan(study: Study, *, measure: bool = False) -> Plan:
    """Match the variants and work out all runs.

    Args:
        study: the study.
        measure: estimate the time from a few steps of each variant.

    Raises:
        RecipeError: variants cannot be matched, or two have one model; all problems at once.
    """
    length, match = length_of(study), study.file.match
    base = matched(study.variants[0], None, match, length)
    found: dict[str, Matched] = {BASE: base}
    problems: list[Problem] = []
    for variant in study.variants[1:]:
        try:
            found[variant.name] = matched(variant, base.size if match.what != "none" else None, match, length)
        except RecipeError as error:
            problems += error.problems
    longest = length_of_data(study) * max((1, *study.file.lengths))
    for variant in study.variants:
        said = study.file.lengths or "length" in study.file.fit.get("data", {})
        if not said or variant.name not in found:
            continue
        name, most = check(found[variant.name].recipe).length_limit
        if most < longest:
            advice = f"lower fit.data.length or lengths, or raise the recipe's {name}"
            what = f"takes {most} tokens, but sequences have {longest}: {advice}"
            problems.append(Problem(variant.mark, variant.name, what))
    if problems:
        raise RecipeError(problems)
    identical = tuple(name for name, one in found.items() if name != BASE and one.recipe.hash == base.recipe.hash)
    reference = _initial_values(base)
    figures = {name: _figures(one, reference, length, study) for name, one in found.items()}
    if measure:
        seconds = {name: _seconds_of_step(found[name], study) for name in figures}
        figures = {name: replace(of, seconds=seconds[name] * of.steps) for name, of in figures.items()}
    return Plan(study, found, figures, identical)


def length_of(study: Study) -> int:
    """Tokens of the sequence that sizes are matched at: a training sequence, or what `match.length` says."""
    return study.file.match.length or length_of_data(study)


def length_of_data(study: Study) -> int:
    """Tokens of a training sequence."""
    return int(study.file.fit.get("data", {}).get("length", DEFAULT_LENGTH))


def _figures(one: Matched, reference: "Mapping[str, torch.Tensor] | None", length: int, study: Study) -> Figures:
    model = check(one.recipe)
    length = min(length, model.length_limit[1])
    has_cache = getattr(model, "cached_per_token", None) is not None
    OptimizerSettings(**study.file.fit.get("optimizer", {})).choose_trained(model)
    flops, trained = model.flops_per_token(length), model.trained_size
    return Figures(
        parameters=model.size,
        non_embedding=round(size_of(model, "non_embedding", length)),
        active=active_parameters(model),
        flops=flops,
        cache=round(size_of(model, "cache", length)) if has_cache else None,
        shared=_shared(one, reference),
        matched=one.changed,
        off=one.off,
        memory=4 * (model.size + 3 * trained),
        steps=_steps(model, study),
    )


def _steps(model: Model, study: Study) -> int:
    """The steps of a run: one number, fixed before anything is trained.

    Raises:
        RecipeError: the budget is less than a step.
    """
    fit, budget = study.file.fit, study.file.budget
    if budget is None:
        return int(fit["trainer"]["max_steps"])
    length = length_of_data(study)
    tokens = int(fit.get("data", {}).get("batch_size", DEFAULT_BATCH)) * length
    tokens *= int(fit.get("trainer", {}).get("accumulate_grad_batches", 1))
    step = BACKWARD * model.flops_per_token(min(length, model.length_limit[1])) * tokens
    steps = budget.steps or int(budget.tokens // tokens if budget.tokens else (budget.flops or 0) // step)
    if steps < 1:
        least = f"{tokens:,} tokens" if budget.tokens else f"{step:.3g} FLOPs"
        raise RecipeError([Problem(study.variants[0].mark, "budget", f"is less than one step, which takes {least}")])
    return steps


def _initial_values(one: Matched) -> "dict[str, torch.Tensor] | None":
    """The initial values of a model that is small enough to be drawn for this; else None."""
    if check(one.recipe).size > COMPARED_WHOLE:
        return None
    return {name: value.detach() for name, value in build(one.recipe).named_parameters()}


def _shared(one: Matched, reference: "Mapping[str, torch.Tensor] | None") -> float | None:
    """Share of the parameters with the same initial values as the base's parameter of that name; None: not compared."""
    if reference is None or check(one.recipe).size > COMPARED_WHOLE:
        return None
    same = total = 0
    for name, value in build(one.recipe).named_parameters():
        total += value.numel()
        other = reference.get(name)
        if other is not None and other.shape == value.shape and torch.equal(other, value):
            same += value.numel()
    return same / total


def _seconds_of_step(one: Matched, study: Study) -> float:
    """Time of a training step, from a few on random tokens."""
    from blockformer.studies.training_step import TrainingStep

    step, begun = TrainingStep(one.recipe, study.file.fit, length_of_data(study)), 0.0
    for number in range(MEASURED_STEPS + 1):
        if number == 1:  # the first step warms up
            begun = time.perf_counter()
        step()
    return (time.perf_counter() - begun) / MEASURED_STEPS
