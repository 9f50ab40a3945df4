"""A study: a question, a base, variants of it, and how they are trained and compared."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from blockformer.assembly import check
from blockformer.data.options import default_dataset
from blockformer.errors import UserError
from blockformer.studies.figures import problems_of_figure
from blockformer.studies.fit_settings import problems_in_settings
from blockformer.studies.study_file import StudyFile, contradictions, parsed
from blockformer.training.objectives import Objective, check_model, chosen_objective, objective_for
from blocks.models.base import Model
from registry import Mark, Problem, Recipe, RecipeError, load_recipe
from registry.errors import nearest
from registry.strict_yaml import Map, mark_of, read_yaml, with_mark
from registry.text import shortened

BASE = "base"
MOST_VARIANTS = 1_000
"""Of a grid."""
DEEPEST = 50
"""Parts of a dotted key."""


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
        name: the file's stem, and the task's name behind a slash.
        file: its content, with the tier applied.
        variants: the base first.
        tier: the tier's name; None: the study as it stands.
        source: the file; None: made by a call.
        tasks: the same study on each of its tasks; then only these are run.
    """

    name: str
    file: StudyFile
    variants: tuple[Variant, ...]
    tier: str | None = None
    source: Path | None = None
    tasks: "tuple[Study, ...]" = ()

    @property
    def label(self) -> str:
        """Its name and that of its tier: names its folder and its group in W&B."""
        return "-".join(filter(None, (self.name, self.tier)))

    @property
    def group(self) -> str:
        """The label of the whole study, whose runs its tasks share: W&B's group."""
        return "-".join(filter(None, (self.name.partition("/")[0], self.tier)))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs that are compared."""
        seeds = self.file.seeds
        return tuple(range(seeds)) if isinstance(seeds, int) else seeds


def read_study(
    source: Path | Mapping[str, Any],
    *,
    tier: str | None = None,
    changes: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    name: str = "study",
) -> Study:
    """Read a study and check it, its recipes and its settings.

    Args:
        source: the file, or its content.
        tier: the tier whose changes apply.
        changes: by dotted key, applied last, as from the command line.
        only: tasks of the study that are wanted; empty: all.
        name: of a study that is no file.

    Raises:
        RecipeError: all problems at once, each with file, line and key.
    """
    if isinstance(source, Path):
        tree, name, folder = read_yaml(source), source.stem, source.parent
    else:
        tree, name, folder = with_mark(dict(source), Mark("study")), name, Path()
    final = partial(_final, tier=tier, changes=changes or {})
    found = partial(_checked, folder=folder, tier=tier, source=source if isinstance(source, Path) else None)
    whole = final(tree)
    tasks = whole.get("tasks")
    tasks = tasks if isinstance(tasks, Map) else Map()
    if unknown := [task for task in only if task not in tasks]:
        known = nearest(unknown[0], tasks) or (f"known: {', '.join(tasks)}" if tasks else "the study has no tasks")
        raise RecipeError([Problem(mark_of(whole, ("tasks",)), "tasks", f"there is no task {unknown[0]!r}; {known}")])
    if not tasks:
        return found(whole, name)
    file = parsed(whole)
    problems = [problem for problem in contradictions(whole, file) if problem.path == "tasks"]
    parts: list[Study] = []
    for task, own in ((task, own) for task, own in tasks.items() if task in (only or tasks)):
        part = final(_changed(tree, own))
        try:
            parts.append(found(Map({**part, "tasks": {}}, part.marks, part.mark), f"{name}/{task}"))
        except RecipeError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise RecipeError(problems)
    return replace(parts[0], name=name, file=file, tasks=tuple(parts))


def _final(tree: Map, *, tier: str | None, changes: Mapping[str, Any]) -> Map:
    """A study, or one task of it, with the changes of the tier and of the command line."""
    tree = _with_tier(tree, tier)
    for key, value in changes.items():
        tree = _set(tree, _parts(key, Mark(f"--{key}")), value, Mark(f"--{key}"))
    return tree


def _checked(tree: Map, name: str, *, folder: Path, tier: str | None, source: Path | None) -> Study:
    """A study of one task.

    Raises:
        RecipeError: all that is wrong with it.
    """
    file = parsed(tree)
    problems = [*contradictions(tree, file), *problems_in_settings(tree, file.fit, *_usual(file, folder))]
    problems += problems_of_figure(tree, file.figure, file.fit)
    variants = tuple(_variants(file, tree, folder, problems))
    if problems:
        raise RecipeError(problems)
    return Study(name, file, variants, tier, source)


def _with_tier(tree: Map, tier: str | None) -> Map:
    tiers = tree.get("tiers")
    if tier is None:
        return tree
    known = tiers if isinstance(tiers, Map) else Map()
    if tier not in known:
        listed = nearest(tier, known) or (f"known: {', '.join(known)}" if known else "the study has no tiers")
        raise RecipeError([Problem(mark_of(tree, ("tiers",)), "tiers", f"there is no tier {tier!r}; {listed}")])
    return _changed(tree, known[tier])


def _changed(tree: Map, changes: Any) -> Map:
    """A study with the changes of a tier or a task, by dotted key."""
    for key, value in changes.items() if isinstance(changes, Map) else ():
        tree = _set(tree, _parts(key, changes.marks[key]), value, changes.marks[key])
    return tree


def _parts(key: str, mark: Mark) -> list[str]:
    """The parts of a dotted key.

    Raises:
        RecipeError: there are more than any study has.
    """
    parts = key.split(".")
    if len(parts) > DEEPEST:
        raise RecipeError([Problem(mark, shortened(key, 60), f"has {len(parts)} parts; at most {DEEPEST} make sense")])
    return parts


def _set(tree: Any, parts: list[str], value: Any, mark: Mark) -> Map:
    """A copy of nested mappings with one value replaced."""
    tree = tree if isinstance(tree, Map) else Map(mark=mark)
    first, rest = parts[0], parts[1:]
    new = _set(tree.get(first), rest, value, mark) if rest else value
    return Map({**tree, first: new}, {**tree.marks, first: mark}, tree.mark)


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
    combinations = math.prod(map(len, file.grid.values())) if file.grid else 0
    if combinations > MOST_VARIANTS:
        said = f"makes {combinations:,} variants; at most {MOST_VARIANTS:,} are compared"
        problems.append(Problem(mark_of(tree, ("grid",)), "grid", said))
        return
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
        except RecipeError as error:
            problems += [Problem(mark_of(tree, ("reference",)), "reference", p.message) for p in error.problems]
            return
        except (KeyError, IndexError, TypeError, ValueError):
            problems.append(Problem(mark, "ablate", f"{key} is not a key of {file.reference}"))
            continue
        candidates.append(Variant(f"no-{key.rpartition('.')[2]}", base, {**file.overrides, key: value}, mark))
    names, objective = [variant.name for variant in candidates], _named_objective(file)
    for variant in candidates:
        if names.count(variant.name) > 1:
            problems.append(Problem(variant.mark, variant.name, "is the name of two variants"))
        problems += _problems_of(variant, objective)
        yield variant


def _problems_of(variant: Variant, objective: Objective | None) -> list[Problem]:
    """What is wrong with the model of a variant, and with the objective for it."""
    try:
        model = check(variant.recipe, variant.overrides)
        check_model(objective or objective_for(model.kind), model)
    except RecipeError as error:
        return [Problem(variant.mark, variant.name, str(problem)) for problem in error.problems]
    except UserError as error:
        return [Problem(variant.mark, variant.name, str(error))]
    return []


def _usual(file: StudyFile, folder: Path) -> tuple[str, str]:
    """The dataset and the objective where the study names none: those for the kind of the base model."""
    objective = _named_objective(file)
    if objective is None:
        try:
            kind = _kind(load_recipe(_recipe(file.base, folder), file.overrides))
        except RecipeError:  # reported with the variants
            kind = "decoder_only"
        objective = objective_for(kind)
    return default_dataset(objective.forms), objective.name


def _kind(recipe: Recipe) -> str:
    """The kind of a recipe's model."""
    return cast("type[Model]", recipe.spec.entry.block).kind


def _named_objective(file: StudyFile) -> Objective | None:
    """The objective that the study names; None: it names none, or wrongly, which is reported with its settings."""
    named = file.fit.get("objective", {})
    try:
        return chosen_objective(named["type"], named.get("of")) if "type" in named else None
    except UserError:
        return None


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
