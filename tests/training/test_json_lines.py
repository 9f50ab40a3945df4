import json
import os
from pathlib import Path

import pytest

from blockformer.errors import UserError
from blockformer.training.json_lines import append_row, read_rows, repaired_rows
from blockformer.training.loggers import FileLogger

DAMAGED = {
    "cut": b'{"step": 2, "train/lo',
    "NULs": b"\0" * 40,
    "not UTF-8": b'{"step": 2, "\xff\xfe": 1}',
    "two rows in one": b'{"step": 2}{"step": 3}',
    "no object": b"[2]",
    "nested": b"[" * 100_000,
    "NaN": b'{"step": 2, "train/loss": NaN}',
    "too large a number": b'{"step": 2, "train/loss": 1e999}',
    "too long a number": b'{"step": 2, "train/loss": ' + b"9" * 5000 + b"}",
    "no step": b'{"train/loss": 2.0}',
    "a text as step": b'{"step": "2"}',
    "a list as figure": b'{"step": 2, "train/loss": [1]}',
    "half a surrogate": b'{"step": 2, "\\ud800": 1}',
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_line_is_set_aside_and_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + DAMAGED[kind] + b'\n{"step": 3}\n{"step": 4}\n')
    logger = FileLogger(tmp_path)
    logger.rewind(3)
    logger.log_metrics({"train/loss": 1.5}, 4)
    assert [row["step"] for row in read_rows(path)] == [1, 3, 4]
    assert (tmp_path / "metrics.damaged.jsonl").read_bytes() == DAMAGED[kind] + b"\n"
    assert capsys.readouterr().err == f"note: {path}: line 2 damaged; moved to metrics.damaged.jsonl\n"
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 3


def test_what_an_editor_changes_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"step": 1}\r\n\n{"step": 2}')
    assert repaired_rows(path) == [{"step": 1}, {"step": 2}]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_row_is_appended_after_one_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    append_row(path, {"verb": "validate", "val/loss": 1.5, "val/perplexity": float("inf")})
    with path.open("ab") as stream:
        stream.write(b'{"verb": "te')
    append_row(path, {"verb": "test"})
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert rows == [{"verb": "validate", "val/loss": 1.5, "val/perplexity": None}, {"verb": "test"}]
    assert (tmp_path / "evaluations.damaged.jsonl").read_bytes() == b'{"verb": "te\n'


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused(tmp_path: Path, make: object) -> None:
    make(tmp_path / "metrics.jsonl")  # type: ignore[operator]
    with pytest.raises(UserError, match=r"metrics\.jsonl: is not a regular file; move it away"):
        read_rows(tmp_path / "metrics.jsonl")
