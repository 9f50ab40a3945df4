"""Show how a study proceeds: a live table on a terminal, a line for each event elsewhere."""

import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from blockformer.errors import UserError
from blockformer.studies.commands import RUNS
from blockformer.studies.execution import Watch
from blockformer.studies.run import Run
from blockformer.studies.run_result import is_number, stored
from registry.files import open_file

TAIL = 8192  # bytes of metrics that are read at a time
SHOWN = 8  # finished runs in the table; those before are counted
DONE = ("finished", "diverged")


@dataclass
class _Shown:
    """What is known about a run while the study proceeds."""

    run: Run
    word: str = "waits"
    begun: float = 0.0
    took: float | None = None
    figure: float | None = None


class Progress(Watch):
    """Shows runs on stderr: what runs, its step, loss and time left, and what has finished.

    Args:
        folder: the study's.
        figure: the study's; that of a finished run is shown.
        stream: where to show it; a table is drawn if it is a terminal.
    """

    def __init__(self, folder: Path, figure: str, *, stream: TextIO | None = None) -> None:
        self.folder, self.figure, self._workers = folder, figure, 1
        self.stream = stream or sys.stderr
        self._runs: dict[str, _Shown] = {}
        self._guard = threading.Lock()
        self._live: Live | None = None
        self._note = ""

    def planned(self, runs: Sequence[Run], workers: int) -> None:
        self._workers = workers
        self._runs = {run.id: self._runs.get(run.id) or _Shown(run) for run in runs}
        for shown in self._runs.values():
            self._read_result(shown)
        if self.stream.isatty():
            console = Console(file=self.stream)
            self._live = Live(console=console, refresh_per_second=2, get_renderable=self.table, transient=True)
            self._live.start()

    def event(self, run: Run, word: str) -> None:
        with self._guard:
            shown, now = self._runs[run.id], time.monotonic()
            shown.word = word
            if word == "begins":
                shown.begun = now
            elif word in DONE:
                shown.took = now - shown.begun if shown.begun else None
                self._read_result(shown)
            if self._live is None:
                print(self._line(shown), file=self.stream, flush=True)

    def stopping(self) -> None:
        self._note = "stopping: runs in progress save; Ctrl-C again ends them at once"
        if self._live is None:
            print(self._note, file=self.stream, flush=True)

    def ended(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live.console.print(self.table())
            self._live = None

    def table(self) -> Group:
        """The runs in progress, the last finished ones, and what is left."""
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("run", "", "step", "loss", "left"):
            table.add_column(column, justify="left" if column in ("run", "") else "right", no_wrap=True)
        with self._guard:
            runs = list(self._runs.values())
        finished = [shown for shown in runs if shown.word in (*DONE, "failed")]
        for shown in finished[-SHOWN:]:
            table.add_row(shown.run.id, shown.word, "", _number(shown.figure), "")
        left: list[float | None] = []
        for shown in runs:
            if shown.word in ("begins", "elsewhere"):
                step, total, loss, seconds = self._state(shown.run)
                left.append(seconds)
                word = "elsewhere" if shown.word == "elsewhere" else "runs"
                table.add_row(shown.run.id, word, f"{step}/{total}", _number(loss), _time(seconds))
            elif shown.word == "waits":
                left.append(self._usual(shown.run.variant))
        counts = f"{self._done()} of {len(runs)} runs have ended"
        known = [seconds for seconds in left if seconds is not None]
        if known and left:
            most = max(max(known), sum(known) / len(known) * len(left) / self._workers)
            counts += f", about {_time(most)} left"
        return Group(table, self._note or counts)

    def _line(self, shown: _Shown) -> str:
        word = {"elsewhere": "is executed by another worker"}.get(shown.word, shown.word)
        if shown.figure is not None:
            word += f", {self.figure} {_number(shown.figure)}"
        return f"{shown.run.id}: {word} ({self._done()} of {len(self._runs)} runs have ended)"

    def _done(self) -> int:
        return sum(shown.word in (*DONE, "failed") for shown in self._runs.values())

    def _read_result(self, shown: _Shown) -> None:
        with suppress(UserError):  # damaged: the executor says so
            if (result := stored(self.folder, shown.run)) is not None:
                shown.word, shown.figure = result.status, result.figure
                shown.took = shown.took or result.seconds

    def _state(self, run: Run) -> tuple[int, int, float | None, float | None]:
        """Step, number of steps, loss, and seconds left of a run, from its metrics."""
        total = int(run.settings["trainer"]["max_steps"])
        rows = _last_rows(self.folder / RUNS / run.id / "metrics.jsonl")
        last = next((row for row in reversed(rows) if "train/loss" in row), {})
        step, seconds = int(last.get("step", 0)), last.get("seconds")
        left = seconds / step * (total - step) if step and seconds else self._usual(run.variant)
        return step, total, last.get("train/loss"), left

    def _usual(self, variant: str) -> float | None:
        """Seconds that a run of a variant, or of any, has taken on average; None: none has ended."""
        ended = [shown for shown in self._runs.values() if shown.took is not None]
        same = [shown for shown in ended if shown.run.variant == variant] or ended
        return sum(shown.took or 0.0 for shown in same) / len(same) if same else None


def _last_rows(path: Path) -> list[dict[str, float]]:
    """The last rows of a file of metrics that another process writes."""
    try:
        with open_file(path) as stream:
            stream.seek(max(0, path.stat().st_size - TAIL))
            lines = stream.read().split(b"\n")
    except OSError:
        return []
    rows: list[dict[str, float]] = []
    for line in lines[:-1]:  # the last one is being written, or is empty
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # the first one is cut
    return [{key: value for key, value in row.items() if is_number(value)} for row in rows if isinstance(row, dict)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes = int(seconds) // 60
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes}:{int(seconds) % 60:02d}"
