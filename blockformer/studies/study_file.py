"""The schema of a study file, and error messages for wrong keys."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from registry import Problem, RecipeError
from registry.errors import nearest, quoted
from registry.merge import dotted
from registry.strict_yaml import Map, as_plain, mark_of

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"
FOLDERS = ("claims", "configs", "documents", "logs", "results", "runs", "slurm", "wandb")
"""Folders of a study, beside which its tasks have theirs."""
FIGURE = r"^(val/[a-z_]+(@\d+x)?|test/[a-z_]+|(val|test)/(loss|bits_per_byte)/[\w-]+|train/loss/[\w-]+|eval/[\w-]+/.+)$"
Name = Annotated[str, Field(pattern=NAME, max_length=60)]
Keys = tuple[str, ...]
SEEDS = 1_000_000  # that there are
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
Source = Literal["initial", "dropout", "order"]  # of differences between the runs of a variant
Quantity = Literal["none", "parameters", "non_embedding", "active", "flops", "cache"]


COUNTS = (
    ("data", "length"),
    ("data", "batch_size"),
    ("trainer", "max_steps"),
    ("trainer", "accumulate_grad_batches"),
)
"""Settings of `fit` from which the steps of a run, and what they cost, are computed."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Match(_Strict):
    """How the variants are made as large as the base.

    Attributes:
        what: all parameters; those outside embeddings and head; those active for a token (experts that are not chosen
            do not count); FLOPs of a forward pass for a token; bytes of the cache of one sequence; none: no matching.
        by: integer keys of the recipe that are changed, in this order: a later one is used where the earlier ones do
            not reach the size. A mapping gives each variant its own list.
        within: largest relative difference from the base.
        multiple: the keys are set to multiples of this.
        length: tokens of the sequence for `flops` and `cache`; null: the length of the training data.
    """

    what: Quantity = "none"
    by: Keys | dict[str, Keys] = ()
    within: Annotated[float, Field(gt=0, lt=1)] = 0.01
    multiple: Annotated[int, Field(ge=1, le=4096)] = 1
    length: Annotated[int, Field(ge=1)] | None = None

    def keys_of(self, variant: str) -> Keys:
        """The keys that may be changed in a variant."""
        return self.by.get(variant, ()) if isinstance(self.by, Mapping) else self.by


class Budget(_Strict):
    """How long every run trains; one of the three.

    Attributes:
        steps: optimizer steps.
        tokens: tokens of the batches, `data.batch_size` times `data.length` times accumulated batches in a step.
        flops: FLOPs of forward and backward passes, taken as three forward passes; a variant that needs fewer for a
            token makes more steps.
    """

    steps: Annotated[int, Field(ge=1)] | None = None
    tokens: Annotated[int, Field(ge=1)] | None = None
    flops: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("one of steps, tokens and flops")
        return self


class StudyFile(_Strict):
    """The keys of a study file.

    Attributes:
        question: what the study asks, in a sentence.
        limits: what the answer does not hold for, for the report.
        base: the recipe that all variants are compared with: a name, or a path that starts from the study file.
        overrides: changes to the base, which all its variants share.
        variants: what differs, by name of the variant: recipe keys and values; `recipe: NAME` starts from another one.
        grid: recipe keys with a list of values each; every combination is a variant.
        ablate: recipe keys; one variant for each, in which this key alone has the value of `reference`.
        reference: the recipe that `ablate` takes its values from.
        match: how the variants are made as large as the base.
        seeds: how many seeds, or a list of them.
        vary: what a seed decides: `initial` values, `dropout`, the `order` of the data.
        smallest: a difference below this does not matter, in the unit of `figure`; null: equivalence is not tested.
        figure: the figure that is compared, of the last step: of a validation or the test, of a source of a mixture
            (`val/loss/NAME`, `train/loss/NAME`), or of an evaluation (`eval/LABEL/FIGURE`).
        learning_rates: each variant is trained at the best of these, chosen on `tuning_seeds`; empty: all at `fit`'s.
        tuning_seeds: seeds of the runs that choose the learning rate.
        lengths: multiples of the trained length at which finished models are validated too, for figures such as
            `val/loss@2x`.
        exchange_rate: train the base with 0.8 and 1.25 times the steps too, and say how many of its steps each
            variant's difference is worth.
        fit: settings of `blockformer fit`: data, objective, optimizer, trainer, model, evaluations.
        budget: how long every run trains, in steps, tokens or FLOPs, instead of `fit.trainer.max_steps`.
        tasks: by name, changes to the study, such as `{fit.data.dataset: mqar}`; every variant is compared on each.
        tiers: by name, changes to the study, such as `{seeds: 3, fit.trainer.max_steps: 200}`.
    """

    question: Annotated[str, Field(max_length=500)] = ""
    limits: Annotated[str, Field(max_length=1000)] = ""
    base: str
    overrides: dict[str, Any] = {}
    variants: dict[Name, dict[str, Any]] = {}
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = {}
    ablate: Keys = ()
    reference: str | None = None
    match: Match = Match()
    seeds: Annotated[int, Field(ge=1, le=1000)] | Annotated[tuple[Seed, ...], Field(min_length=1)] = 3
    vary: Annotated[tuple[Source, ...], Field(min_length=1)] = ("initial", "dropout", "order")
    smallest: Annotated[float, Field(gt=0)] | None = None
    figure: Annotated[str, Field(pattern=FIGURE)] = "val/loss"
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = ()
    tuning_seeds: Annotated[int, Field(ge=1, le=100)] = 1
    lengths: tuple[Annotated[int, Field(ge=2, le=64)], ...] = ()
    exchange_rate: bool = False
    fit: dict[str, dict[str, Any]] = {}
    budget: Budget | None = None
    tasks: dict[Name, dict[str, Any]] = {}
    tiers: dict[Name, dict[str, Any]] = {}

    @field_validator("variants")
    @classmethod
    def _not_the_base(cls, variants: dict[str, Any]) -> dict[str, Any]:
        if "base" in variants:
            raise ValueError("a name other than 'base', which means the base itself")
        return variants


def parsed(tree: Map) -> StudyFile:
    """The keys of a study.

    Raises:
        RecipeError: keys are unknown, missing or have wrong values; all of them are named.
    """
    try:
        return StudyFile.model_validate(as_plain(tree))
    except ValidationError as error:
        raise RecipeError(_problems(tree, error)) from None


def contradictions(tree: Map, file: StudyFile) -> Iterator[Problem]:
    """Keys that each are right and do not go together."""
    match, by = file.match, file.match.by
    steps = file.fit.get("trainer", {}).get("max_steps")
    at = file.figure.partition("@")[2] if file.figure.startswith("val/") else ""
    taken = [task for task in file.tasks if task in FOLDERS]
    twice = not isinstance(file.seeds, int) and len(set(file.seeds)) < len(file.seeds)
    rules: list[tuple[bool, tuple[str, ...], str]] = [
        (not (file.variants or file.grid or file.ablate), (), "has nothing to compare: give variants, grid or ablate"),
        (bool(file.ablate) and not file.reference, ("ablate",), "needs reference: the recipe with the other values"),
        (file.reference is not None and not file.ablate, ("reference",), "has no effect without ablate; remove it"),
        (match.what == "none" and bool(by), ("match", "by"), "has no effect with what: none; say what is matched"),
        (match.what != "none" and not by, ("match",), "needs by: keys, such as [decoder.layer.feedforward.hidden]"),
        (len(file.learning_rates) == 1, ("learning_rates",), "needs two to choose from; set fit.optimizer.lr instead"),
        (
            steps is None and file.budget is None,
            ("fit",),
            "needs trainer: {max_steps: N}: all runs stop at one step, fixed before they begin; or give budget",
        ),
        (steps is not None and file.budget is not None, ("budget",), "contradicts fit.trainer.max_steps: give one"),
        (twice, ("seeds",), "names a seed twice"),
        (bool(taken), ("tasks",), f"cannot have the name {taken[0]!r} of a folder of the study" if taken else ""),
        (at not in ("", *(f"{n}x" for n in file.lengths)), ("figure",), f"needs lengths: [{at.rstrip('x')}]"),
    ]
    for wrong, path, message in rules:
        if wrong:
            yield Problem(mark_of(tree, path), dotted(path), message)
    for group, key in COUNTS:
        value = file.fit.get(group, {}).get(key)
        if isinstance(value, int) and value < 1:
            path = "fit", group, key
            yield Problem(mark_of(tree, path), dotted(path), f"must be at least 1, not {value}")
    for name in by if isinstance(by, Mapping) else ():
        if name not in file.variants:
            known = nearest(name, file.variants) or f"variants: {', '.join(file.variants)}"
            yield Problem(mark_of(tree, ("match", "by", name)), f"match.by.{name}", f"is not a variant; {known}")


def _problems(tree: Map, error: ValidationError) -> Iterator[Problem]:
    """One problem for each wrong key; of the members of a union the one that validation got furthest in."""
    found: dict[tuple[str | int, ...], list[Any]] = {}
    for details in error.errors(include_url=False):
        found.setdefault(_written(tree, details["loc"]), []).append(details)
    for path, group in found.items():
        first = group[0]
        if first["type"] == "extra_forbidden":
            known = {"match": Match, "budget": Budget}.get(dotted(path[:-1]), StudyFile).model_fields
            message = f"there is no such key; {nearest(str(path[-1]), known) or 'known: ' + ', '.join(known)}"
        elif first["type"] == "missing":
            path, message = first["loc"], "must be given"
        else:
            wanted = dict.fromkeys(_wanted(details) for details in group)
            message = f"must be {' or '.join(wanted)}, not {quoted(first['input'])}"
        yield Problem(mark_of(tree, path), dotted(path), message)


def _wanted(details: Any) -> str:
    plain = {"int_type": "an integer", "float_type": "a number", "string_type": "text", "dict_type": "a mapping"}
    plain |= {"tuple_type": "a list", "model_type": "a mapping"}
    if details["type"] == "string_pattern_mismatch":
        return (
            "val/, test/, train/ or eval/ and a figure, such as val/loss, val/loss@2x, val/loss/SOURCE, "
            "train/loss/SOURCE or eval/LABEL/FIGURE"
            if "figure" in details["loc"]
            else "a name of letters, digits, _, ., + and -"
        )
    text = details["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return plain.get(details["type"]) or text


def _written(tree: Any, location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    for index, key in enumerate(location):
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            missing_key = isinstance(tree, Map) and index == len(location) - 1 and key in StudyFile.model_fields
            return location if missing_key else location[:index]
    return location
