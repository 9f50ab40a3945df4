"""Metrics in `metrics.jsonl`, and the same in `metrics.csv`, which is derived from it."""

import csv
import io
import os
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from blockformer.files import as_json, open_to_append, write_text
from blockformer.training.json_lines import Row, as_line, read_rows, repaired_rows


class FileLogger(Logger):
    """Writes each row at once, so that a killed run loses none.

    Args:
        folder: the run's folder; existing `metrics.jsonl` and `metrics.csv` in it are continued.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._stream: TextIO | None = None
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def version(self) -> str:
        return ""

    @property
    def path(self) -> Path:
        """The file with one JSON object per line."""
        return self.folder / "metrics.jsonl"

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write `facts.json`: the configuration of the run and quantities derived from its recipe."""
        text = as_json(params, indent=1, default=str)
        write_text(self.folder / "facts.json", text)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row: Row = ({} if step is None else {"step": step}) | metrics
        if self._stream is None:
            self._stream = self._opened()
        self._stream.write(as_line(row))  # line-buffered: the operating system has it, even if this process dies
        self._append_csv(row)

    @rank_zero_only
    def rewind(self, step: int, *, validated: bool = True) -> None:
        """Remove the rows that a run that continues writes again: those after ``step``, and its validation if not made.

        Args:
            step: the step of the checkpoint.
            validated: whether the validation of this step is made, and its row stays.
        """
        rows = repaired_rows(self.path, _is_of_metrics)
        self._close()
        kept = [row for row in rows if row["step"] < step or (row["step"] == step and (validated or not _of_val(row)))]
        if rows or self.path.exists():
            write_text(self.path, "".join(as_line(row) for row in kept))
            self._rewrite_csv(kept)

    @rank_zero_only
    def save(self) -> None:
        """Make the rows durable, so that a checkpoint that follows them never outlives them."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._stream is not None:
            os.fsync(self._stream.fileno())
        self._close()

    def _opened(self) -> TextIO:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._columns = _columns(read_rows(self.path))
        return io.TextIOWrapper(open_to_append(self.path), encoding="utf-8", line_buffering=True)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _append_csv(self, row: Row) -> None:
        """Append a row; a new column rewrites the whole file."""
        if set(row) - set(self._columns):
            self._rewrite_csv(read_rows(self.path))
            return
        with io.TextIOWrapper(open_to_append(self.folder / "metrics.csv"), encoding="utf-8", newline="") as stream:
            csv.DictWriter(stream, self._columns).writerow(row)

    def _rewrite_csv(self, rows: list[Row]) -> None:
        self._columns = _columns(rows)
        table = io.StringIO()
        writer = csv.DictWriter(table, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / "metrics.csv", table.getvalue())


def _is_of_metrics(row: Row) -> bool:
    """Whether a row is one that this logger writes: numbers by name, and the step."""
    numbers = all(isinstance(value, int | float | None) for value in row.values())
    return numbers and type(row.get("step")) is int and row["step"] >= 0


def _of_val(row: Row) -> bool:
    return any(key.startswith("val/") for key in row)


def _columns(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))
