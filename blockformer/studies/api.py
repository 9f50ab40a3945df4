"""`compare()`: `blockformer compare` for callers in Python."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.studies.commands import RUNS
from blockformer.studies.engines import ENGINES, make_engine
from blockformer.studies.execution import Executor, Watch
from blockformer.studies.launcher import Launcher
from blockformer.studies.learning_rates import UnknownRunError
from blockformer.studies.plan import make_plan
from blockformer.studies.results import RESULTS_FILE, Results, looks_at, run_one, run_study, unfinished_look
from blockformer.studies.run_result import Result
from blockformer.studies.speed import When
from blockformer.studies.stored_files import check_links, read_stored
from blockformer.studies.study import Study, read_study
from blockformer.studies.tables import as_csv, as_markdown
from blockformer.studies.task_table import combined, table_as_csv, table_as_html, table_as_markdown
from registry.text import printable

ROOT = Path("comparisons")
PAGES = {"results.csv": table_as_csv, "results.md": table_as_markdown, "report.html": table_as_html}
_RESULTS = TypeAdapter(Results)


def compare(
    study: str | Path | Mapping[str, Any],
    *,
    tier: str | None = None,
    tasks: Sequence[str] = (),
    out: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    workers: int | None = None,
    add_seeds: int = 0,
    options: Sequence[str] = (),
    engine: str | None = None,
    engine_options: Mapping[str, str] | None = None,
    speed: When = "once",
) -> Results:
    """Run a study, or what is left of it, and return its results.

        results = compare({"base": "tiny_decoder", "variants": {"none": {"decoder.layer.feedforward": "none"}}, ...})
        results["verdicts"]["none"]["verdict"]

    Args:
        study: a study file, or its content.
        tier: the tier whose changes apply.
        tasks: tasks of the study that are wanted; empty: all.
        out: the study's folder; None: `comparisons/` and the study's name.
        changes: by dotted key, over the study.
        workers: runs at a time; None: as many as there are GPUs, and one without.
        add_seeds: further seeds for a study that has been run.
        options: further options of `blockformer fit`, such as ``["--run.wandb", "offline"]``.
        engine: `slurm` or `ray`: where the runs are executed, by as many jobs as ``workers``; None: on this machine.
        engine_options: of the engine, such as ``{"time": "120", "partition": "gpu"}``.
        speed: whether to measure the variants' speed and memory after their runs: `once`, `again` or `never`.

    Returns:
        The content of `results.json`.

    Raises:
        RecipeError: something is wrong with the study; all of it is named.
        RunFailedError: a run failed each time it was tried.
    """
    found = read_study(Path(study) if isinstance(study, str) else study, tier=tier, changes=changes, only=tasks)
    return execute(
        found,
        folder_for(found, out),
        workers=workers,
        add_seeds=add_seeds,
        options=options,
        engine=engine,
        engine_options=engine_options,
        speed=speed,
    )


def folder_for(study: Study, out: str | Path | None) -> Path:
    """The study's folder: what was asked for, or its name, and its tier's, under `comparisons/`."""
    return Path(out) if out is not None else ROOT / study.label


def execute(
    study: Study,
    folder: Path,
    *,
    workers: int | None = None,
    add_seeds: int = 0,
    options: Sequence[str] = (),
    command: Sequence[str] = (),
    watch: Watch | None = None,
    engine: str | None = None,
    engine_options: Mapping[str, str] | None = None,
    speed: When = "once",
) -> Results:
    """Run a checked study in its folder and write `results.json`, `results.csv`, `results.md` and `report.html`.

    Each task of a study with several has such a folder of its own inside.
    """
    places = _places(study, folder)
    if len(places) > 1 and unfinished_seeds(study, folder):
        add_seeds = 0
    for part, place in places:
        looks_at(part, place, add_seeds)  # noted for all tasks before the first is run
    found: dict[str, Results] = {}
    for part, place in places:
        with _executor(part, folder, workers, options, watch, engine, engine_options) as executor:
            found[place.name] = _execute_part(part, executor, place, options, command, speed)
    if not study.tasks:
        return found[folder.name]
    results = combined(study, {**_other_tasks(study, folder), **found})
    write_text(folder / RESULTS_FILE, json.dumps(results, indent=1, allow_nan=False))
    for name, text in PAGES.items():
        write_text(folder / name, text(results))
    return results


def _other_tasks(study: Study, folder: Path) -> dict[str, Results]:
    """The results of tasks that are not run now, as far as there are any, so that the table keeps them."""
    results: dict[str, Results] = {}
    for task in study.file.tasks:
        try:
            part = read_stored(folder / task, RESULTS_FILE, _RESULTS, "")
            json.dumps(part, allow_nan=False)
            for table in PAGES.values():
                table({"study": study.name, "question": "", "tasks": {task: part}})
        except FileNotFoundError:
            continue
        except Exception:  # of any class: it may be damaged in any way
            path = printable(folder / task / RESULTS_FILE)
            print(f"note: {path}: is damaged and left out of the table; run task {task} again", file=sys.stderr)
            continue
        results[task] = part
    return results


def _execute_part(
    study: Study, executor: Executor, place: Path, options: Sequence[str], command: Sequence[str], speed: When
) -> Results:
    """Run one task; tasks share the folder of the runs, so that two that train alike train once."""
    from blockformer.studies.report import as_html  # imported late: plotly
    from blockformer.studies.wandb_study import publish

    results = run_study(make_plan(study), executor, place, command=command, speed=speed)
    for name, text in (("csv", as_csv), ("md", as_markdown)):
        write_text(place / f"results.{name}", text(results))
    write_text(place / "report.html", as_html(results))
    publish(results, place, executor.folder / RUNS, options)
    return results


def parts_of(study: Study, folder: Path) -> list[tuple[Study, Path]]:
    """The study on each of its tasks, with a folder each; the study itself if it has none."""
    return [(part, folder / part.name.rpartition("/")[2]) for part in study.tasks] or [(study, folder)]


def _places(study: Study, folder: Path) -> list[tuple[Study, Path]]:
    """:func:`parts_of`, after checking that nothing leads out of the folder.

    Raises:
        UserError: a link does.
    """
    places = parts_of(study, folder)
    for place in dict.fromkeys([folder, *(place for _, place in places)]):
        check_links(place)
    return places


def unfinished_seeds(study: Study, folder: Path) -> list[int]:
    """Seeds that were begun and have no results yet."""
    for part, place in parts_of(study, folder):
        if seeds := unfinished_look(place, looks_at(part, place)):
            return seeds
    return []


def execute_one(
    study: Study,
    folder: Path,
    run_id: str,
    *,
    options: Sequence[str] = (),
    watch: Watch | None = None,
) -> Result:
    """Execute one run of a checked study in the study's folder, as an agent of a sweep does, without verdicts."""
    for part, place in (places := _places(study, folder)):
        try:
            with _executor(part, folder, 1, options, watch) as executor:
                return run_one(make_plan(part), executor, place, run_id)
        except UnknownRunError:
            if place is places[-1][1]:
                raise
    raise AssertionError("unreachable: a study has parts")


@contextmanager
def _executor(
    study: Study,
    folder: Path,
    workers: int | None,
    options: Sequence[str],
    watch: Watch | None,
    engine: str | None = None,
    engine_options: Mapping[str, str] | None = None,
) -> Iterator[Executor]:
    place, lengths = (folder, study.group, study.file.figure), study.file.lengths
    if engine is None:
        gpus = gpus_of_workers(study)
        shared: dict[str, Any] = {"lengths": lengths, "options": options, "watch": watch}
        yield Executor(*place, workers=workers or len(gpus) or 1, gpus=gpus, **shared)
        return
    if engine not in ENGINES or workers is None:
        raise UserError(f"engine {engine}: give one of {', '.join(ENGINES)}, and workers: the number of jobs")
    started = make_engine(engine, folder, engine_options or {})
    try:
        yield Launcher(started, *place, lengths=lengths, workers=workers, options=options, watch=watch)
    finally:
        started.close()


def gpus_of_workers(study: Study) -> list[str]:
    """The GPUs for each of as many runs as fit on this machine at a time, as values of CUDA_VISIBLE_DEVICES."""
    import torch

    trainer = study.file.fit.get("trainer", {})
    if trainer.get("accelerator") == "cpu":
        return []
    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(count)] if given is None else given.split(",")[:count]
    devices = trainer.get("devices", 1)
    each = devices if isinstance(devices, int) and devices > 0 else 1
    return [",".join(names[start : start + each]) for start in range(0, count - each + 1, each)]
