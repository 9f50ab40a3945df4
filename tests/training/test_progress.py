import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from blockformer.training.callbacks.progress import figures, summary
from tests.conftest import ROOT, last_of_each

ROW = {"train/loss": 2.5181, "train/bits_per_byte": 3.6333, "train/accuracy": 0.3241, "tokens_per_second": 12086.3}


def test_the_summary_names_each_figure() -> None:
    assert summary(ROW, "train") == "loss 2.5181  bits/byte 3.633  accuracy 0.324  tokens/s 12,086"


def test_figures_that_are_not_in_the_row_are_left_out() -> None:
    assert summary({"val/loss": 1.5, "val/accuracy": 0.25}, "val") == "loss 1.5000  accuracy 0.250"
    assert summary({}, "train") == ""
    assert [name for name, _ in figures(ROW, "train", brief=True)] == ["loss", "bits/byte", "tokens/s"]


def test_in_a_pipe_there_are_lines_and_no_bar(
    fit: Callable[..., Path], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [*arguments, "--trainer.enable_progress_bar", "true", "--trainer.val_check_interval", "2"]
    fit("--trainer.max_steps", "4", name="lines", given=shown)
    output = capsys.readouterr().out
    assert re.search(r"^step 4/4  0:00 left  loss \d\.\d{4}  bits/byte ", output, re.MULTILINE)
    assert len(re.findall(r"^step \d  validation: loss ", output, re.MULTILINE)) == 2
    assert "\x1b" not in output


@pytest.mark.slow
def test_on_a_terminal_a_bar_counts_the_steps_of_the_run_in_80_columns(arguments: list[str], tmp_path: Path) -> None:
    options = ["--trainer.enable_progress_bar", "true", "--run.root", str(tmp_path), "--run.name", "bar"]
    command = ["-m", "blockformer.cli.main", "fit", *last_of_each([*arguments, *options, "--trainer.max_steps", "30"])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
    child = pexpect.spawn(sys.executable, command, env=environment, dimensions=(24, 80), encoding="utf-8", timeout=900)
    child.expect(pexpect.EOF)
    rows = re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", child.before))
    bars = [row for row in rows if "/30" in row]
    assert any("30/30" in row and "loss: " in row and "tokens/s: " in row for row in bars)
    assert max(map(len, bars)) <= 80
    assert sum("validation: loss" in row for row in rows) == 10 + 1  # and the line at the end
