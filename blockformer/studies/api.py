"""`blockformer compare` for callers in Python."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blockformer.files import write_text
from blockformer.studies.execution import Executor, Result
from blockformer.studies.plan import Run, make_plan
from blockformer.studies.results import Results, run_one, run_study
from blockformer.studies.study import Study, read_study
from blockformer.studies.tables import as_csv, as_markdown

ROOT = Path("comparisons")


def compare(
    study: str | Path | Mapping[str, Any],
    *,
    tier: str | None = None,
    out: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    workers: int = 1,
    add_seeds: int = 0,
    options: Sequence[str] = (),
) -> Results:
    """Run a study, or what is left of it, and return its results.

        results = compare({"base": "tiny_decoder", "variants": {"none": {"decoder.layer.feedforward": "none"}}, ...})
        results["verdicts"]["none"]["verdict"]

    Args:
        study: a study file, or its content.
        tier: the tier whose changes apply.
        out: the study's folder; None: `comparisons/` and the study's name.
        changes: by dotted key, over the study.
        workers: runs at a time.
        add_seeds: further seeds for a study that has been run.
        options: further options of `blockformer fit`, such as ``["--run.wandb", "offline"]``.

    Returns:
        The content of `results.json`.

    Raises:
        RecipeError: something is wrong with the study; all of it is named.
        RunFailedError: a run failed each time it was tried.
    """
    found = read_study(Path(study) if isinstance(study, str) else study, tier=tier, changes=changes)
    return execute(found, folder_for(found, out), workers=workers, add_seeds=add_seeds, options=options)


def folder_for(study: Study, out: str | Path | None) -> Path:
    """The study's folder: what was asked for, or its name, and its tier's, under `comparisons/`."""
    return Path(out) if out is not None else ROOT / study.label


def execute(
    study: Study,
    folder: Path,
    *,
    workers: int = 1,
    add_seeds: int = 0,
    options: Sequence[str] = (),
    command: Sequence[str] = (),
    watch: Callable[[Run, str], None] = lambda run, word: None,
) -> Results:
    """Run a checked study in its folder and write `results.json`, `results.csv`, `results.md` and `report.html`."""
    from blockformer.studies.report import as_html  # imported late: plotly
    from blockformer.studies.wandb_study import publish

    plan = make_plan(study)
    executor = Executor(folder, study.label, study.file.figure, workers=workers, options=options, watch=watch)
    results = run_study(plan, executor, add_seeds=add_seeds, command=command)
    for name, text in (("csv", as_csv), ("md", as_markdown)):
        write_text(folder / f"results.{name}", text(results))
    write_text(folder / "report.html", as_html(results))
    publish(results, folder, options)
    return results


def execute_one(
    study: Study,
    folder: Path,
    run_id: str,
    *,
    options: Sequence[str] = (),
    watch: Callable[[Run, str], None] = lambda run, word: None,
) -> Result:
    """Execute one run of a checked study in the study's folder, as an agent of a sweep does, and judge nothing."""
    plan = make_plan(study)
    executor = Executor(folder, study.label, study.file.figure, options=options, watch=watch)
    return run_one(plan, executor, run_id)
