"""A study in Weights & Biases: one run beside those of its variants, with its tables, plots and files."""

import hashlib
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blockformer.files import as_json, write_text
from blockformer.studies.commands import RUNS
from blockformer.studies.run_labels import LONGEST_TAG
from blockformer.studies.sentences import answer, verdict_sentence
from blockformer.studies.tables import COLUMNS, SIZES, SPEEDS, rows_of
from blockformer.training.loggers.wandb_logger import begin, by_key, run_id, wandb_mode

PUBLISHED = "wandb.json"
FILES = ("results.json", "results.csv", "results.md", "report.html")
RUN_COLUMNS = ("id", "variant", "seed", "learning_rate", "status", "figure")
OFFLINE = "wandb/offline-run-*"


def run_option(options: Sequence[str], name: str, default: str) -> str:
    """The value of `--run.NAME` among options of `fit`."""
    for place, item in enumerate(options):
        key, equals, value = item.partition("=")
        if key == f"--run.{name}":
            return value if equals else next(iter(options[place + 1 : place + 2]), default)
    return default


def publish(results: Mapping[str, Any], folder: Path, runs: Path, options: Sequence[str]) -> None:
    """Send the results to W&B, or keep them offline as the runs are; no failure of W&B stops a study.

    The further run has job type `report`. It holds tables of the variants, verdicts and runs, the plots, the whole
    report as a panel, and the files of the results as an artifact. Results that were sent already are not sent again.

    Args:
        results: the content of `results.json`.
        folder: the study's folder, or that of one of its tasks, with the files of the results.
        runs: the folder of the runs.
        options: of `fit`, as the runs have had them: `--run.wandb`, `--run.project`.
    """
    mode = run_option(options, "wandb", "auto")
    mode = wandb_mode() if mode == "auto" else mode
    state, digest = folder / PUBLISHED, hashlib.sha256((folder / FILES[0]).read_bytes()).hexdigest()
    if mode == "disabled" or _read(state).get("results") == digest:
        return
    try:
        project = run_option(options, "project", "blockformer")
        if results["figure"].startswith("test/"):
            _send_test_figures(results, runs, mode, project)
        url = _send_report(results, folder, mode, project)
    except Exception as error:  # of any kind: results.json and report.html matter more
        reason = (str(error).splitlines() or [""])[0]
        print(f"W&B failed ({type(error).__name__}: {reason}); {folder} is complete without it", file=sys.stderr)
        return
    write_text(state, as_json({"results": digest, "url": url}))


def send_views(study: Mapping[str, Any], options: Sequence[str]) -> list[str]:
    """Make a workspace and a report of each task, and return lines that say where they are, or why they are not.

    Args:
        study: the results of a study, or of one with tasks.
        options: of `fit`, as the runs have had them.
    """
    mode = run_option(options, "wandb", "auto")
    if (mode := wandb_mode() if mode == "auto" else mode) != "online":
        return [f"W&B is {mode}: no report is made there; log in (wandb login), and repeat the command"]
    from blockformer.studies.wandb_views import send

    project = run_option(options, "project", "blockformer")
    try:
        parts = study.get("tasks", {"": study}).values()
        return [f"W&B: {url}" for results in parts for url in send(results, None, project)]
    except Exception as error:  # of any kind: the study itself is complete
        reason = (str(error).splitlines() or [""])[0]
        return [f"W&B failed ({type(error).__name__}: {reason}): no report was made there; repeat the command"]


def place_lines(folder: Path) -> list[str]:
    """Where the study and its tasks can be seen in W&B, and the command that uploads what is offline."""
    urls = [_read(path).get("url") for path in (folder / PUBLISHED, *sorted(folder.glob(f"*/{PUBLISHED}")))]
    patterns = [pattern for pattern in (f"{RUNS}/*/{OFFLINE}", f"*/{OFFLINE}", OFFLINE) if any(folder.glob(pattern))]
    paths = " ".join(f"{shlex.quote(str(folder))}/{pattern}" for pattern in patterns)
    offline = [f"W&B, offline: upload it with `wandb sync {paths}`"] if patterns else []
    return [f"W&B: {url}" for url in urls if url] + offline


def _read(path: Path) -> dict[str, Any]:
    """What was sent; nothing if that is not known."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _send_test_figures(results: Mapping[str, Any], runs: Path, mode: str, project: str) -> None:
    """Add the figures of the test split to the summaries of the runs; `fit` itself has logged the others."""
    for run in results["runs"]:
        home = runs / run["id"]
        if run["status"] != "finished" or not (home / "wandb.id").is_file():
            continue
        facts = _read(home / "facts.json")
        about = {"group": results["group"], "job_type": run["variant"], "name": run["id"]}
        session = begin(
            mode, id=run_id(home), resume="allow", dir=str(home), project=project, config=by_key(facts), **about
        )
        session.summary.update({name: value for name, value in run["figures"].items() if name.startswith("test/")})
        session.finish()


def _send_report(results: Mapping[str, Any], folder: Path, mode: str, project: str) -> str | None:
    """Log the tables, plots and files of a study as one run. Returns its URL; None: it is offline."""
    import wandb

    from blockformer.studies.charts import charts_of

    label = results["label"]
    config = {
        "study": label,
        "question": results["question"],
        "figure": results["figure"],
        "plan": {key: of for key, of in results["plan"].items() if key != "runs"},
    }
    about = {
        "group": results["group"],
        "job_type": "report",
        "name": f"{label}-report",
        "tags": [label[:LONGEST_TAG], "report"],
    }
    run = begin(
        mode, id=run_id(folder), resume="allow", dir=str(folder), project=project, config=by_key(config), **about
    )
    rows = rows_of(results)
    verdicts = [
        (name, of["verdict"], of["difference"], of["low"], of["high"], of["p"], verdict_sentence(name, of, results))
        for name, of in results["verdicts"].items()
    ]
    columns = ("variant", "verdict", "difference", "low", "high", "p", "in words")
    tables = {
        "variants": wandb.Table(list(COLUMNS + SIZES + SPEEDS), [_cells(row.values()) for row in rows]),
        "verdicts": wandb.Table(list(columns), [_cells(row) for row in verdicts]),
        "runs": wandb.Table(list(RUN_COLUMNS), [_cells(of[key] for key in RUN_COLUMNS) for of in results["runs"]]),
    }
    plots = {f"plots/{name}": wandb.Plotly(chart) for name, chart in charts_of(results).items()}
    run.log(
        {**tables, **plots, "report": wandb.Html((folder / "report.html").read_text(encoding="utf-8"), inject=False)}
    )
    run.summary.update({"answer": answer(results)})
    run.summary.update({f"verdict/{name}": of["verdict"] for name, of in results["verdicts"].items()})
    artifact = wandb.Artifact(
        f"study-{run.id}", type="study", metadata={"study": label, "plan": results["plan"]["hash"]}
    )
    for name in FILES:
        artifact.add_file(str(folder / name))
    run.log_artifact(artifact)
    url = None if run.offline else run.url
    run.finish()
    return url


def _cells(values: Iterable[Any]) -> list[Any]:
    """Values of one row; W&B wants one type a column, and takes integers and fractions for two."""
    return [float(value) if isinstance(value, int) else value for value in values]
