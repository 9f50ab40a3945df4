"""A study file: a question, a base, variants of it, and how they are trained and compared."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from blockformer.data.options import default_dataset
from blockformer.studies.fit_settings import problems_in_settings
from registry import Mark, Problem, RecipeError, load_recipe
from registry.errors import nearest, quoted
from registry.strict_yaml import Map, as_plain, dotted, mark_of, read_yaml

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"
BASE = "base"
Name = Annotated[str, Field(pattern=NAME, max_length=60)]
Keys = tuple[str, ...]
Seed = Annotated[int, Field(ge=0, lt=1_000_000)]
Source = Literal["initial", "dropout", "order"]  # of differences between the runs of a variant
Quantity = Literal["none", "parameters", "non_embedding", "active", "flops", "cache"]


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


class StudyFile(_Strict):
    """The keys of a study file.

    Attributes:
        question: what the study asks, in a sentence.
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
        figure: the figure that is compared, of the last step.
        learning_rates: each variant is trained at the best of these, chosen on `tuning_seeds`; empty: all at `fit`'s.
        tuning_seeds: seeds of the runs that choose the learning rate.
        fit: settings of `blockformer fit`: data, optimizer, trainer, model.
        tiers: by name, changes to the study, such as `{seeds: 3, fit.trainer.max_steps: 200}`.
    """

    question: Annotated[str, Field(max_length=500)] = ""
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
    figure: Annotated[str, Field(pattern=r"^(val|test)/[a-z_]+$")] = "val/loss"
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = ()
    tuning_seeds: Annotated[int, Field(ge=1, le=100)] = 1
    fit: dict[str, dict[str, Any]] = {}
    tiers: dict[Name, dict[str, Any]] = {}

    @field_validator("variants")
    @classmethod
    def _not_the_base(cls, variants: dict[str, Any]) -> dict[str, Any]:
        if BASE in variants:
            raise ValueError(f"a name other than {BASE!r}, which means the base itself")
        return variants


@dataclass(frozen=True)
class Variant:
    """One model of a study: a recipe and what is changed in it.

    Attributes:
        name: in tables and of its runs.
        recipe: a built-in recipe's name or a file.
        overrides: laid over it, in order.
        mark: where the study says so.
    """

    name: str
    recipe: str
    overrides: dict[str, Any] = field(default_factory=dict)
    mark: Mark = field(default_factory=partial(Mark, "study"))


@dataclass(frozen=True)
class Study:
    """A checked study.

    Attributes:
        name: the file's stem.
        file: its content, with the tier applied.
        variants: the base first.
        tier: the tier's name; None: the study as it stands.
        source: the file; None: made by a call.
    """

    name: str
    file: StudyFile
    variants: tuple[Variant, ...]
    tier: str | None = None
    source: Path | None = None

    @property
    def label(self) -> str:
        """Its name and that of its tier: names its folder and its group in W&B."""
        return "-".join(filter(None, (self.name, self.tier)))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs that are compared."""
        seeds = self.file.seeds
        return tuple(range(seeds)) if isinstance(seeds, int) else seeds


def read_study(
    source: Path | Mapping[str, Any], *, tier: str | None = None, changes: Mapping[str, Any] | None = None
) -> Study:
    """Read a study and check it, its recipes and its settings.

    Args:
        source: the file, or its content.
        tier: the tier whose changes apply.
        changes: by dotted key, applied last, as from the command line.

    Raises:
        RecipeError: all problems at once, each with file, line and key.
    """
    if isinstance(source, Path):
        tree, name, folder = read_yaml(source), source.stem, source.parent
    else:
        from registry.strict_yaml import with_mark

        tree, name, folder = with_mark(dict(source), Mark("study")), "study", Path()
    tree = _with_tier(tree, tier)
    for key, value in (changes or {}).items():
        tree = _set(tree, key.split("."), value, Mark(f"--{key}"))
    try:
        file = StudyFile.model_validate(as_plain(tree))
    except ValidationError as error:
        raise RecipeError(_problems(tree, error)) from None
    problems = [*_contradictions(tree, file), *problems_in_settings(tree, file.fit, _usual_dataset(file, folder))]
    variants = tuple(_variants(file, tree, folder, problems))
    if problems:
        raise RecipeError(problems)
    return Study(name, file, variants, tier, source if isinstance(source, Path) else None)


def _with_tier(tree: Map, tier: str | None) -> Map:
    tiers = tree.get("tiers")
    if tier is None:
        return tree
    known = tiers if isinstance(tiers, Map) else Map()
    if tier not in known:
        listed = nearest(tier, known) or (f"known: {', '.join(known)}" if known else "the study has no tiers")
        raise RecipeError([Problem(mark_of(tree, ("tiers",)), "tiers", f"there is no tier {tier!r}; {listed}")])
    changes = known[tier] if isinstance(known[tier], Map) else Map()
    for key, value in changes.items():
        tree = _set(tree, key.split("."), value, changes.marks[key])
    return tree


def _set(tree: Any, parts: list[str], value: Any, mark: Mark) -> Map:
    """A copy of nested mappings with one value replaced."""
    tree = tree if isinstance(tree, Map) else Map(mark=mark)
    first, rest = parts[0], parts[1:]
    new = _set(tree.get(first), rest, value, mark) if rest else value
    return Map({**tree, first: new}, {**tree.marks, first: mark}, tree.mark)


def _problems(tree: Map, error: ValidationError) -> Iterator[Problem]:
    """One problem for each wrong key; of the members of a union the one that validation got furthest in."""
    found: dict[tuple[str | int, ...], list[Any]] = {}
    for details in error.errors(include_url=False):
        found.setdefault(_written(tree, details["loc"]), []).append(details)
    for path, group in found.items():
        first = group[0]
        if first["type"] == "extra_forbidden":
            known = Match.model_fields if path[:-1] == ("match",) else StudyFile.model_fields
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
            "val/ or test/ and a figure" if "figure" in details["loc"] else "a name of letters, digits, _, ., + and -"
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


def _contradictions(tree: Map, file: StudyFile) -> Iterator[Problem]:
    """Keys that each are right and do not go together."""
    match, by = file.match, file.match.by
    steps = file.fit.get("trainer", {}).get("max_steps")
    twice = not isinstance(file.seeds, int) and len(set(file.seeds)) < len(file.seeds)
    rules: list[tuple[bool, tuple[str, ...], str]] = [
        (not (file.variants or file.grid or file.ablate), (), "has nothing to compare: give variants, grid or ablate"),
        (bool(file.ablate) and not file.reference, ("ablate",), "needs reference: the recipe with the other values"),
        (file.reference is not None and not file.ablate, ("reference",), "has no effect without ablate; remove it"),
        (match.what == "none" and bool(by), ("match", "by"), "has no effect with what: none; say what is matched"),
        (match.what != "none" and not by, ("match",), "needs by: keys, such as [decoder.layer.feedforward.hidden]"),
        (len(file.learning_rates) == 1, ("learning_rates",), "needs two to choose from; set fit.optimizer.lr instead"),
        (steps is None, ("fit",), "needs trainer: {max_steps: N}: all runs stop at one step, fixed before they begin"),
        (twice, ("seeds",), "names a seed twice"),
    ]
    for wrong, path, message in rules:
        if wrong:
            yield Problem(mark_of(tree, path), dotted(path), message)
    for name in by if isinstance(by, Mapping) else ():
        if name not in file.variants:
            known = nearest(name, file.variants) or f"variants: {', '.join(file.variants)}"
            yield Problem(mark_of(tree, ("match", "by", name)), f"match.by.{name}", f"is no variant; {known}")


def _variants(file: StudyFile, tree: Map, folder: Path, problems: list[Problem]) -> Iterator[Variant]:
    """The base and its variants; what is wrong with their recipes is added to ``problems``."""
    base = _recipe(file.base, folder)
    candidates = [Variant(BASE, base, dict(file.overrides), mark_of(tree, ("base",)))]
    for name, changes in file.variants.items():
        own = changes.get("recipe")
        overrides = {key: value for key, value in changes.items() if key != "recipe"}
        recipe = base if own is None else _recipe(str(own), folder)
        shared = {} if own is not None else file.overrides
        candidates.append(Variant(name, recipe, {**shared, **overrides}, mark_of(tree, ("variants", name))))
    for values in itertools.product(*file.grid.values()) if file.grid else ():
        chosen = dict(zip(file.grid, values, strict=True))
        name = ",".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in chosen.items())
        candidates.append(Variant(name, base, {**file.overrides, **chosen}, mark_of(tree, ("grid",))))
    reference = None
    for key in file.ablate:
        mark = mark_of(tree, ("ablate",))
        try:
            reference = reference or load_recipe(_recipe(file.reference or "", folder)).dump()
            value = _value_at(reference, key)
        except KeyError:
            problems.append(Problem(mark, "ablate", f"{key} is no key of {file.reference}"))
            continue
        except RecipeError as error:
            problems += [Problem(mark_of(tree, ("reference",)), "reference", p.message) for p in error.problems]
            return
        candidates.append(Variant(f"no-{key.rpartition('.')[2]}", base, {**file.overrides, key: value}, mark))
    names = [variant.name for variant in candidates]
    for variant in candidates:
        if names.count(variant.name) > 1:
            problems.append(Problem(variant.mark, variant.name, "is the name of two variants"))
        try:
            load_recipe(variant.recipe, variant.overrides)
        except RecipeError as error:
            problems += [Problem(variant.mark, variant.name, str(problem)) for problem in error.problems]
        yield variant


def _usual_dataset(file: StudyFile, folder: Path) -> str:
    """The dataset where the study names none: the one for the kind of the base model."""
    try:
        kind = load_recipe(_recipe(file.base, folder), file.overrides).spec.entry.name
    except RecipeError:  # reported with the variants
        kind = ""
    return default_dataset(kind)


def _recipe(name: str, folder: Path) -> str:
    """A recipe's name, or its path from the study file."""
    beside = folder / name
    return str(beside) if Path(name).suffix in (".yaml", ".yml") and beside.is_file() else name


def _value_at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[int(part)] if isinstance(tree, list | tuple) else tree[part]
    return tree


def _short(value: Any) -> str:
    text = value.get("type", "block") if isinstance(value, Mapping) else str(value)
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text)[:20]
