"""What a run prints, its log, and output that cannot be written."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockformer.phases import Phases
from blockformer.training.output import RunLog, kept_output, run_log
from tests.conftest import ROOT, last_of_each

Fit = Callable[..., Path]
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "


def test_a_run_keeps_what_it_printed_with_the_time(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ["--trainer.enable_progress_bar", "true", "--trainer.max_steps", "2"]
    folder = fit(*shown, name="logged-lines")
    log = (folder / "log.txt").read_text()
    assert re.match(rf"{STAMP}\$ blockformer fit --recipe tiny_decoder ", log)
    assert all(re.match(STAMP, line) for line in log.splitlines())
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line not in re.sub(STAMP, "", log)] == []
    assert [line for line in printed if line.endswith(" ...")] == [
        "preparing the data ...",
        "starting ...",
        "step 1 ...",
    ]
    fit(*shown[:-1], "3", "--ckpt_path", "last", name="logged-lines")
    assert (folder / "log.txt").read_text().startswith(log)
    assert (folder / "log.txt").read_text().count("$ blockformer fit") == 2


def test_a_log_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    log = RunLog()
    log.note("early")
    log.open(Path("/dev/full"))
    log.note("late")
    log.open(tmp_path / "missing" / "log.txt")
    log.note("never")
    log.open(tmp_path / "log.txt")
    log.note("two\nlines")
    assert re.sub(STAMP, "", (tmp_path / "log.txt").read_text()) == "two\nlines\n"


def test_frames_of_a_bar_are_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kept_output() as log:
        log.open(tmp_path / "log.txt")
        print("a line")
        print("\x1b[2Kbar\r", end="")
        print("\nanother", end="")
        run_log().note("a noted line")
    assert re.sub(STAMP, "", (tmp_path / "log.txt").read_text()) == "a line\na noted line\nanother\n"
    assert capsys.readouterr().out == "a line\n\x1b[2Kbar\r\nanother\n"


def test_a_phase_is_repeated_until_it_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("blockformer.phases.SECONDS", 0.05)
    phases = Phases()
    phases.begin("working")
    phases.at(": batch 3/9")
    time.sleep(0.3)
    phases.end()
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert (first, second) == ("working ...", "working: batch 3/9 ... 0:00")
    monkeypatch.setenv("LOCAL_RANK", "1")
    time.sleep(0.1)
    capsys.readouterr()
    phases.begin("working")
    assert capsys.readouterr().out == ""


ENDINGS = {"a reader that left": "| head -1", "a full disk": "> /dev/full", "closed": ">&- 2>&-"}
SLOW = ("a reader that left", "closed")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["a full disk", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_output_that_cannot_be_written_stops_no_run(ending: str, arguments: list[str], tmp_path: Path) -> None:
    shown = ["--trainer.enable_progress_bar", "true", "--run.root", str(tmp_path), "--run.name", "unheard"]
    words = last_of_each([*arguments, *shown, "--trainer.max_steps", "3"])
    command = [sys.executable, "-m", "blockformer.cli.main", "fit", *words]
    line = f"{' '.join(map(repr, command))} {ENDINGS[ending]}; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    log = (tmp_path / "unheard" / "log.txt").read_text()
    assert re.search(rf"^{STAMP}done: ", log, re.MULTILINE)


def test_a_long_validation_shows_how_far_it_is(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from blockformer.training.callbacks import RunProgress

    monkeypatch.setattr(RunProgress, "_due", lambda self, last: True)
    fit("--trainer.enable_progress_bar", "true", "--trainer.max_steps", "1", name="validating")
    assert re.search(r"^step 1  validating: batch 1/2$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_predictions_are_whole_or_those_of_before(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from blockformer.cli.main import main
    from blockformer.training.callbacks import Predictions

    folder = fit("--trainer.max_steps", "1", name="predicted")
    command = ["predict", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
    assert main(command) == 0
    (path,) = folder.glob("**/predictions.jsonl")
    whole = path.read_bytes()
    write = Predictions.write_on_batch_end

    def stopped(self: Predictions, *given: Any) -> None:
        write(self, *given)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Predictions, "write_on_batch_end", stopped)
    capsys.readouterr()
    assert main(command) == 143
    assert capsys.readouterr().err == "blockformer predict: stopped by SIGTERM\n"
    assert path.read_bytes() == whole
    assert not list(path.parent.glob(".*.tmp"))
