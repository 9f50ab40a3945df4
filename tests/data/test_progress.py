"""Progress of the preparation: how far each pass over the data is, on a terminal and in a pipe."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pexpect
import pytest

from blockformer import phases as module
from blockformer.data import progress
from blockformer.data.corpora.table_rows import rows
from blockformer.data.module import TextData
from blockformer.data.progress import Stage
from tests.conftest import ROOT
from tests.data.test_tables import FORMATS, write

WORDS = ["one document, of a few words", "zwei Wörter", "a third"] * 40


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize(
    ("total", "done", "line"),
    [
        (5_000_000_000, 1_250_000_000, ": encoding 1.2 of 5.0 GB, 10.0 MB/s, 6:15 left"),
        (4000, 1000, ": encoding 1.0 of 4.0 kB, 0.0 MB/s, 6:15 left"),
        (None, 500_000_000, ": encoding 500.0 MB, 4.0 MB/s"),
        (7, 0, ": encoding 0 of 7 bytes, 0.0 MB/s"),
        (10, 12, ": encoding 12 of 10 bytes, 0.0 MB/s, 0:00 left"),
    ],
)
def test_a_line_has_the_bytes_the_rate_and_the_time_left(
    total: int | None, done: int, line: str, clock: list[float]
) -> None:
    stage = Stage("encoding", total, bar=False)
    clock[0] += 125
    stage.advance(done)
    assert stage.text() == line


@pytest.mark.parametrize("ending", FORMATS)
def test_reading_a_table_counts_the_bytes_of_its_file(ending: str, tmp_path: Path) -> None:
    path, counted = write(tmp_path / f"t.{ending}", {"text": WORDS}), list[int]()
    assert len(list(rows(path, ["text"], counted.append))) == len(WORDS)
    # footers of Arrow files and rounding may be left
    assert min(counted) >= 0
    assert 0.8 * path.stat().st_size <= sum(counted) <= path.stat().st_size + len(counted)


def _stages(data: TextData, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int | None, int]]:
    """The bytes of each pass of a preparation: of all, and done."""
    made: dict[str, Stage] = {}
    begin = Stage.__init__

    def keep(self: Stage, what: str, total: int | None, *, bar: bool) -> None:
        begin(self, what, total, bar=bar)
        made[what] = self

    monkeypatch.setattr(Stage, "__init__", keep)
    assert data.tokenizer is not None
    return {what: (stage._total, stage._done) for what, stage in made.items()}


@pytest.mark.parametrize("dataset", ["table", "table_pairs", "text", "pairs"])
def test_each_pass_ends_at_all_bytes(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, pairs = (
        [f"{n} {word}" for n, word in enumerate(WORDS)],
        [f"{n} {word}\tnein" for n, word in enumerate(WORDS)],
    )
    if dataset.startswith("table"):
        path = write(tmp_path / "t.csv", {"text": texts, "source": texts, "target": ["nein"] * len(texts)})
    else:
        path = tmp_path / "t.txt"
        path.write_text("\n".join(pairs if dataset == "pairs" else texts), encoding="utf-8")
    found = _stages(TextData(dataset, files=str(path), vocab_size=270, validation=0.2, test=0.2), monkeypatch)
    size = sum(len(text.encode()) for text in texts)
    size += {"text": len(texts) - 1, "table": 0}.get(dataset, 4 * len(texts))
    assert found.pop("reading") == (path.stat().st_size, path.stat().st_size)
    assert found == dict.fromkeys(("hashing", "training the tokenizer", "encoding"), (size, size))


def test_in_a_pipe_the_lines_of_the_phase_say_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.02)
    module.phases.begin("preparing")
    with progress.stage("reading", 200) as stage:
        stage.advance(50)
        while "of 200" not in (shown := capsys.readouterr().out):
            pass
    module.phases.end()
    assert re.search(r"^preparing: reading 50 of 200 bytes, \d+\.\d MB/s, 0:00 left \.\.\. 0:00$", shown, re.MULTILINE)
    assert "\x1b" not in shown


def test_nothing_is_shown_where_no_phase_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "_SOON", 0.0)
    with progress.stage("reading", 2) as stage:
        stage.advance(1)
        stage.advance(1)
    assert capsys.readouterr() == ("", "")


def _on_a_terminal(script: Sequence[str]) -> list[str]:
    """What a program in Python writes to a terminal of 80 columns, without the codes that move the cursor."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
    code = ["-c", "\n".join(script)]
    child = pexpect.spawn(sys.executable, code, env=environment, dimensions=(24, 80), encoding="utf-8", timeout=120)
    child.expect(pexpect.EOF)
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", child.before))


def test_on_a_terminal_a_bar_has_bytes_rate_and_time_in_80_columns_and_no_lines() -> None:
    shown = _on_a_terminal(
        [
            "import time",
            "from blockformer import phases",
            "from blockformer.data import progress",
            "phases.SECONDS, progress._SOON = 0.05, 0.0",
            "phases.phases.begin('preparing')",
            "with progress.stage('training the tokenizer', 3_000_000) as stage:",
            "    for _ in range(3):",
            "        stage.advance(1_000_000)",
            "        time.sleep(0.2)",
            "print('done')",
        ]
    )
    bars = [row for row in shown if "training the tokenizer" in row]
    assert any(re.search(r"training the tokenizer .*[12]\.0/3\.0 MB.*MB/s.*\d:\d\d", row) for row in bars)
    assert max(map(len, bars)) <= 80
    during = shown[shown.index("preparing ...") + 1 : shown.index("done")]
    assert not [row for row in during if row.startswith("preparing")]
