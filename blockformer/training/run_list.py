"""The runs in a folder, read from their files alone: nothing of them is imported, locked or changed."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from blockformer.errors import UserError
from blockformer.files import is_deeper
from blockformer.training.json_lines import Row, read_rows
from registry.merge import flat, split_path
from registry.strict_yaml import read_yaml

FACTS, METRICS, DIVERGED, LOCK = "facts.json", "metrics.jsonl", "diverged.json", "run.lock"
OF_A_RUN = (FACTS, METRICS, "config.yaml")
STUDY = ("plan.json", "runs")
FRESH = 30.0  # seconds without a sign of life, which a run gives every 5, after which it has stopped
LARGEST = 1 << 24  # bytes of a file that a run writes once
LARGEST_METRICS = 1 << 30  # bytes
DEEPEST = 100  # levels of lists and mappings in it
SETTINGS = ("data", "optimizer", "trainer", "model", "seed_everything", "init_from", "plugin")
State = Literal["running", "finished", "stopped", "diverged", "damaged", "study", "no run"]


@dataclass(frozen=True)
class ListedRun:
    """One folder among runs.

    Attributes:
        name: the folder's.
        state: whether it trains now (it gives a sign of life), has made all its steps, or ended before; or that its
            files are damaged, or that it is a study or no run at all.
        note: what is wrong with it, or where a study has its runs.
        facts: its configuration, as in `facts.json`; empty if it has none.
        step: optimizer steps made.
        steps: steps that it was to make; None: that is not known.
        figures: of the last validation.
        when: seconds since 1970 of its last metrics.
    """

    name: str
    state: State
    note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    steps: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    when: float | None = None

    def value(self, key: str) -> Any:
        """What the run has under a dotted key: of the recipe, the configuration, its figures or this list.

        Raises:
            KeyError: it has no such key.
        """
        own = {"name": self.name, "state": self.state, "step": self.step, "when": self.when, **self.figures}
        if key in own:
            return own[key]
        parts = split_path(key)
        for tree in (self.facts, self.facts.get("recipe")):
            try:
                return _at(tree, parts)
            except (KeyError, IndexError, TypeError, ValueError):
                continue
        raise KeyError(key)

    def keys(self) -> Iterator[str]:
        """All keys of scalars that :meth:`value` takes."""
        yield from ("name", "state", "step", "when", *self.figures)
        yield from (key.removeprefix("recipe.") for key in flat(self.facts))


def runs_in(root: Path) -> list[ListedRun]:
    """All folders in a folder of runs, the newest first, then those that are no runs.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; set --root to the folder that contains the runs")
    try:
        folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{root}: cannot be read: {error.strerror}") from error
    return sorted(map(_listed, folders), key=lambda run: (-(run.when or 0), run.name))


def facts_in(folder: Path) -> dict[str, Any]:
    """The configuration in a run's `facts.json`.

    Raises:
        UserError: it is missing, damaged or not of a run.
    """
    path = folder / FACTS
    found = _json(path)
    if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
        raise UserError(f"{path}: is not the configuration of a run")
    return cast("dict[str, Any]", found)


def settings_in(folder: Path) -> dict[str, Any]:
    """The settings in a run's `config.yaml` that affect its result.

    Raises:
        RecipeError: it is missing or damaged.
    """
    config = read_yaml(folder / "config.yaml")
    return {key: config[key] for key in SETTINGS if key in config}


def run_differences(a: Path, b: Path) -> dict[str, list[tuple[str, Any, Any]]]:
    """Where two runs differ beside their recipes: `data` (text and tokenizer), `settings`, `versions` and `figures`.

    Args:
        a: the folder of the old run.
        b: of the new one.

    Returns:
        For each group the keys that differ, with the old and the new value; None: there is none.

    Raises:
        UserError, RecipeError: a file of a run is missing or damaged.
    """
    there, here = facts_in(a), facts_in(b)
    settings = flat(settings_in(a)), flat(settings_in(b))
    data = [
        {key: value for key, value in flat(facts.get("data") or {}).items() if f"data.{key}" not in of}
        for facts, of in zip((there, here), settings, strict=True)
    ]
    figures = [_listed(folder).figures for folder in (a, b)]
    versions = [flat(facts.get("versions") or {}) for facts in (there, here)]
    groups = {"data": data, "settings": settings, "versions": versions, "figures": figures}
    return {name: list(_differing(*sides)) for name, sides in groups.items()}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys((*a, *b)):
        if a.get(key) != b.get(key):
            yield key, a.get(key), b.get(key)


def _listed(folder: Path) -> ListedRun:
    """One folder; whatever is wrong with it is its state."""
    name = folder.name
    try:
        if not any((folder / file).is_file() for file in OF_A_RUN):
            if all((folder / part).exists() for part in STUDY):
                return ListedRun(name, "study", f"its runs are in {folder / STUDY[1]}")
            return ListedRun(name, "no run", "it has no configuration and no metrics")
        facts, rows = facts_in(folder), _rows(folder / METRICS)
        validations = [row for row in rows if any(key.startswith("val/") for key in row)]
        newest = validations[-1] if validations else {}
        figures = {key: of for key, of in newest.items() if key.startswith("val/") and type(of) in (int, float)}
        step, steps = max((row["step"] for row in rows), default=0), _steps(facts)
        when = (folder / METRICS).stat().st_mtime if rows else (folder / FACTS).stat().st_mtime
        return ListedRun(name, _state(folder, step, steps), "", facts, step, steps, figures, when)
    except OSError as error:
        return ListedRun(name, "damaged", f"{error.filename or folder}: {error.strerror}")
    except UserError as error:
        return ListedRun(name, "damaged", str(error))


def _state(folder: Path, step: int, steps: int | None) -> State:
    lock = folder / LOCK
    if lock.is_file() and lock.stat().st_size and time.time() - lock.stat().st_mtime < FRESH:
        return "running"
    if (folder / DIVERGED).is_file():
        return "diverged"
    return "finished" if steps and step >= steps else "stopped"


def _steps(facts: Mapping[str, Any]) -> int | None:
    trainer = facts.get("trainer")
    total = trainer.get("total_steps") if isinstance(trainer, Mapping) else None
    return total if type(total) is int and total > 0 else None


def _rows(path: Path) -> list[Row]:
    """The rows of metrics; none if nothing was reported yet.

    Raises:
        UserError: the file is larger than what fits into the memory beside those of other runs.
    """
    if path.is_file() and (size := path.stat().st_size) > LARGEST_METRICS:
        raise UserError(f"{path}: has {size:,} bytes, and at most {LARGEST_METRICS:,} are listed")
    return read_rows(path, lambda row: type(row.get("step")) is int) if path.exists() else []


def _json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: there is none, or it is not JSON.
    """
    try:
        if path.is_file() and path.stat().st_size > LARGEST:
            raise UserError(f"{path}: has {path.stat().st_size:,} bytes, so no run has written it")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON") from error
    if is_deeper(found, DEEPEST):
        raise UserError(f"{path}: has more than {DEEPEST} levels, so no run has written it")
    return found


def _at(tree: Any, parts: list[str]) -> Any:
    for part in parts:
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree
