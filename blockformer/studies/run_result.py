"""The result of one run: read from the run's folder, and stored once in the study's."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.studies.plan import Purpose, Run
from blockformer.training.loggers.file_logger import read_rows

RESULTS = "results"
Status = Literal["finished", "diverged"]


@dataclass(frozen=True)
class Result:
    """The outcome of one run.

    Attributes:
        id, variant, seed, learning_rate, purpose: of the run.
        status: whether it finished or its loss became infinite or NaN.
        figure: the study's figure after the last step; None: it diverged.
        figures: all figures of the last validation and of the test.
        curve: validations: step, tokens, seconds and the figures.
        seconds: of training, without start and preparation.
    """

    id: str
    variant: str
    seed: int
    learning_rate: float | None
    purpose: Purpose
    status: Status
    figure: float | None
    figures: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float | None = None


def stored(folder: Path, run: Run) -> Result | None:
    """The result of a run that the study's folder holds; None: it has none yet.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / RESULTS / f"{run.id}.json"
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: is damaged; remove it, and the run is repeated") from error


def store(folder: Path, result: Result) -> None:
    """Write a result into the study's folder."""
    text = json.dumps(asdict(result), indent=1, allow_nan=False)
    write_text(folder / RESULTS / f"{result.id}.json", text)


def is_tested(run: Run, figure: str) -> bool:
    """Whether a run is also scored on the test data: it answers the question, and the figure is one of them."""
    return figure.startswith("test/") and run.purpose == "answer"


def collected(folder: Path, run: Run, figure: str, status: Status) -> Result:
    """The result of a run that has ended.

    Args:
        folder: the run's.
        run: the run.
        figure: the study's.
        status: how it ended.

    Raises:
        UserError: the run has no such figure.
    """
    rows = [row for row in read_rows(folder / "metrics.jsonl") if "val/loss" in row]
    wanted = ("step", "tokens", "seconds")
    curve = [
        {key: value for key, value in row.items() if (key in wanted or key.startswith("val/")) and _finite(value)}
        for row in rows
    ]
    figures = {key: value for key, value in (curve[-1] if curve else {}).items() if key.startswith("val/")}
    name = figure if run.purpose == "answer" else figure.replace("test/", "val/")
    if status == "finished":
        if is_tested(run, figure):
            evaluation = read_rows(folder / "evaluations.jsonl")[-1]
            figures |= {key: value for key, value in evaluation.items() if key.startswith("test/")}
        if name not in figures:
            known = ", ".join(sorted(figures)) or "none: nothing was validated"
            raise UserError(f"{run.id} has no figure {name}; it has {known}")
    return Result(
        *(run.id, run.variant, run.seed, run.learning_rate, run.purpose, status),
        figure=figures.get(name) if status == "finished" else None,
        figures=figures,
        curve=curve,
        seconds=rows[-1].get("seconds") if rows else None,
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
