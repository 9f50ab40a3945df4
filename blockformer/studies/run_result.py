"""The result of one run: read from the run's folder, and stored once in the study's."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.studies.figures import of_validations
from blockformer.studies.fit_settings import DEFAULT_BATCH, DEFAULT_LENGTH
from blockformer.studies.run import Purpose, Run
from blockformer.studies.stored_files import read_stored
from blockformer.training.loggers.file_logger import read_rows

RESULTS = "results"
_PLACE = ("step", "tokens", "seconds")
Status = Literal["finished", "diverged"]


@dataclass(frozen=True)
class Result:
    """The outcome of one run.

    Attributes:
        id, variant, seed, learning_rate, purpose: of the run.
        status: whether it finished or its loss became infinite or NaN.
        figure: the study's figure after the last step; None: it diverged.
        figures: all figures of the last validation and its evaluations, training losses of sources, figures of the
            test, and of validations at other lengths (`val/loss@2x`).
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

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


_RESULT = TypeAdapter(Result)


@dataclass(frozen=True)
class RequestedFigures:
    """What a study wants to know of its runs.

    Attributes:
        figure: such as `val/loss`, `test/accuracy` or `val/loss@2x`.
        lengths: multiples of the trained length at which finished models are validated too.
    """

    figure: str
    lengths: tuple[int, ...] = ()

    def of(self, run: Run) -> str:
        """The figure of a run: the study's, or that of the validation where the run chooses a learning rate."""
        return self.figure if run.purpose != "tune" else of_validations(self.figure)

    def evaluations(self, run: Run) -> Iterator[tuple[str, str, list[str]]]:
        """What a finished run is evaluated on: stage, suffix of its figures, and the command."""
        if run.purpose == "tune":
            return
        if self.figure.startswith("test/"):
            yield "test/", "", ["test"]
        data = run.settings.get("data", {})
        length, rows = data.get("length", DEFAULT_LENGTH), data.get("batch_size", DEFAULT_BATCH)
        for times in self.lengths:
            size = ["--data.length", str(length * times), "--data.batch_size", str(max(1, rows // times))]
            yield "val/", f"@{times}x", ["validate", *size]

    def evaluated(self, folder: Path, stage: str, suffix: str) -> dict[str, float]:
        """The figures of the last evaluation of the run in this folder."""
        row = read_rows(folder / "evaluations.jsonl")[-1]
        return {f"{key}{suffix}": value for key, value in row.items() if key.startswith(stage) and is_number(value)}

    def result(self, folder: Path, run: Run) -> Result | None:
        """The stored result of a run; None: it has none yet, or not all figures that are wanted.

        Args:
            folder: the study's.
            run: the run.
        """
        found = stored(folder, run)
        if found is None or found.status == "diverged":
            return found
        have = {f"{key.partition('/')[0]}/{key[key.find('@') :] if '@' in key else ''}" for key in found.figures}
        if not {f"{stage}{suffix}" for stage, suffix, _ in self.evaluations(run)} <= have:
            return None
        return replace(found, figure=found.figures.get(self.of(run)))


def stored(folder: Path, run: Run) -> Result | None:
    """The result of a run that the study's folder holds; None: it has none yet.

    Raises:
        UserError: the file is damaged.
    """
    remedy = "remove it, and the run is repeated"
    try:
        found = read_stored(folder, f"{RESULTS}/{run.id}.json", _RESULT, remedy)
    except FileNotFoundError:
        return None
    if (found.id, found.variant, found.seed) != (run.id, run.variant, run.seed):
        raise UserError(f"{folder / RESULTS / run.id}.json: is the result of another run; {remedy}")
    return found


def store(folder: Path, result: Result) -> None:
    """Write a result into the study's folder."""
    text = json.dumps(asdict(result), indent=1, allow_nan=False)
    write_text(folder / RESULTS / f"{result.id}.json", text)


def collected(folder: Path, run: Run, name: str, status: Status, further: Mapping[str, float]) -> Result:
    """The result of a run that has ended.

    Args:
        folder: the run's.
        run: the run.
        name: the figure that is wanted.
        status: how it ended.
        further: figures of evaluations.

    Raises:
        UserError: the run has no such figure.
    """
    curve = list(_validations(read_rows(folder / "metrics.jsonl")))
    figures = {key: value for key, value in (curve[-1] if curve else {}).items() if key not in _PLACE}
    figures |= further
    if status == "finished" and name not in figures:
        known = ", ".join(sorted(figures)) or "none: nothing was validated"
        raise UserError(f"{run.id} has no figure {name}; it has {known}")
    return Result(
        *(run.id, run.variant, run.seed, run.learning_rate, run.purpose, status),
        figure=figures.get(name) if status == "finished" else None,
        figures=figures,
        curve=curve,
        seconds=curve[-1].get("seconds") if curve else None,
    )


def _validations(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, float]]:
    """Step, tokens, seconds and figures of each validation, with the training losses of sources that came before it."""
    sources: dict[str, float] = {}
    for row in rows:
        sources |= {key: value for key, value in row.items() if key.startswith("train/loss/") and is_number(value)}
        if "val/loss" in row:
            kept = {key: value for key, value in row.items() if key in _PLACE or key.startswith(("val/", "eval/"))}
            yield {key: value for key, value in kept.items() if is_number(value)} | sources


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
