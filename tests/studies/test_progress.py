"""What is shown while a study runs."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from blockformer.studies.progress import Progress
from blockformer.studies.run import Run
from blockformer.studies.run_result import Result, store

RUNS = [Run(name, seed, None, "answer", {"trainer": {"max_steps": 100}}) for seed in (0, 1) for name in ("a", "b")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def finish(folder: Path, run: Run, figure: float) -> None:
    store(folder, Result(run.id, run.variant, run.seed, None, "answer", "finished", figure, seconds=30.0))


def train(folder: Path, run: Run, step: int) -> None:
    rows = [{"step": step - 1, "train/loss": 3.0, "seconds": 0.0}, {"step": step, "train/loss": 2.5, "seconds": 4.0}]
    (folder / "runs" / run.id).mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "runs" / run.id / "metrics.jsonl").write_text(text + '{"step": 99, "trai')


def drawn(progress: Progress) -> str:
    console = Console(width=100, file=io.StringIO())
    with console.capture() as capture:
        console.print(progress.table())
    return capture.get()


def test_without_a_terminal_each_event_is_a_line_with_counts(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = Progress(tmp_path, "val/loss", stream=stream)
    finish(tmp_path, RUNS[0], 2.0)
    progress.planned(RUNS, 1)
    progress.event(RUNS[1], "begins")
    finish(tmp_path, RUNS[1], 1.25)
    progress.event(RUNS[1], "finished")
    progress.event(RUNS[2], "elsewhere")
    progress.event(RUNS[3], "failed")
    progress.stopping()
    progress.ended()
    a, b, c = (run.id for run in RUNS[1:])
    assert stream.getvalue().splitlines() == [
        f"{a}: begins (1 of 4 runs have ended)",
        f"{a}: finished, val/loss 1.2500 (2 of 4 runs have ended)",
        f"{b}: is executed by another worker (2 of 4 runs have ended)",
        f"{c}: failed (3 of 4 runs have ended)",
        "stopping: runs in progress save; Ctrl-C again ends them at once",
    ]


def test_the_table_shows_steps_loss_and_the_time_that_is_left(tmp_path: Path) -> None:
    progress = Progress(tmp_path, "val/loss", stream=Terminal())
    finish(tmp_path, RUNS[0], 2.0)
    progress.planned(RUNS, 2)
    progress.event(RUNS[1], "begins")
    assert "0/100" in drawn(progress)
    train(tmp_path, RUNS[1], 20)
    shown = [line.split() for line in drawn(progress).splitlines()]
    assert [RUNS[0].id, "finished", "2.0000"] in shown
    assert [RUNS[1].id, "runs", "20/100", "2.5000", "0:16"] in shown
    assert "1 of 4 runs have ended, about 0:38 left" in drawn(progress)  # 16 s, and 30 s twice, by two workers
    progress.stopping()
    assert "stopping: runs in progress save" in drawn(progress)
    progress.ended()


@pytest.mark.parametrize("tail", [b"", b"\xff\x00\n", b"[1]\n", b"x" * 9000 + b"\n"])
def test_metrics_that_cannot_be_read_are_not_shown(tmp_path: Path, tail: bytes) -> None:
    progress = Progress(tmp_path, "val/loss", stream=Terminal())
    train(tmp_path, RUNS[0], 20)
    path = tmp_path / "runs" / RUNS[0].id / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b"\n" + tail)
    progress.planned(RUNS, 1)
    progress.event(RUNS[0], "begins")
    assert ("20/100" if len(tail) < 9000 else "0/100") in drawn(progress)
    progress.ended()
