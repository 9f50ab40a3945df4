"""`blockformer conformance`: its output, its stored results, and single recipes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from blockformer.cli.main import main
from blockformer.conformance import recipe_checks
from blockformer.conformance.block_case import BlockCase
from blockformer.conformance.full_run import (
    Settings,
    append_row,
    check_row,
    fingerprint,
    read_rows,
    report_failures,
    write_rows,
)
from blockformer.conformance.matrix import KINDS, probe, tables
from blockformer.conformance.validate import as_yaml

TREE = {
    "type": "decoder_only",
    "dim": 32,
    "vocab_size": 41,
    "max_length": 16,
    "decoder": {"type": "layers", "depth": 2, "layer": {"residual": {"type": "post", "norm": "rms"}}},
    "head": {"type": "own", "bias": True},
}


def check_has_no_post_norm(case: BlockCase) -> None:
    """A check that the recipe above fails."""
    if "post" in str(case.params):
        raise AssertionError("there is a post-norm")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_checks, "checks_for", lambda case: (check_has_no_post_norm,))


@pytest.mark.usefixtures("broken")
def test_a_failure_is_printed_with_the_smallest_recipe_and_the_command_to_repeat_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = check_row({"number": 8, "recipe": TREE})
    assert row["failure"] == {"check": "has_no_post_norm", "error": "AssertionError: there is a post-norm"}
    report_failures([row], tmp_path)
    told = capsys.readouterr().out
    path = tmp_path / "failures" / "8.yaml"
    assert f"blockformer conformance --recipe {path}" in told
    smallest = path.read_text()
    assert smallest in told
    assert "post" in smallest
    assert "rms" not in smallest
    assert "head" not in smallest


def test_a_crash_of_the_validation_is_a_failure() -> None:
    row = check_row({"number": 1, "recipe": {"type": "decoder_only", "no such key": 1}})
    assert row["failure"]["check"] == "validate"


def test_damaged_lines_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"number": 0}])
    append_row(path, {"number": 1})
    with path.open("a") as file:
        file.write('{"number": 2, "fail')
    assert [row["number"] for row in read_rows(path)] == [0, 1]
    path.write_bytes(b'{"number": 0}\n\0\0\n[1]\n' + b"[" * 5000 + b'\n"\xff"\n{"other": 2}\n{"number": 3}\n')
    assert [row["number"] for row in read_rows(path, ["number"])] == [0, 3]
    assert list(read_rows(tmp_path / "absent.jsonl")) == []


@pytest.mark.slow
def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blockformer.cli.main", "conformance", "--count", "3", "--folder", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.startswith("3 recipes, ")
    results = tmp_path / "results.jsonl"
    kept = results.read_text().splitlines()
    other = json.dumps(json.loads(kept[0]) | {"seed": 7})  # of a run with other settings, which is kept
    results.write_text("\n".join([other, *kept[:2]]) + "\n" + kept[2][:20])
    plan = tmp_path / "plan.jsonl"
    plan.write_text(plan.read_text().replace('{"number": 1', "{", 1))
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.stdout == first.stdout
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert json.dumps(rows[0]) == other
    assert [row["number"] for row in rows[1:3]] == [json.loads(line)["number"] for line in kept[:2]]
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "tiny_decoder"], "--set vocab_size=41 --set max_length=16"),
        (["--recipe", "nowhere.yaml"], "there is no such file"),
    ],
)
def test_a_recipe_that_cannot_be_checked_is_one_line(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conformance", *options]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_a_number_of_processes_is_above_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["conformance", "--processes", "0"])
    assert "--processes" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("broken")
def test_a_recipe_can_be_checked_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(as_yaml(TREE))
    assert main(["conformance", "--recipe", str(path)]) == 1
    assert "has_no_post_norm fails: AssertionError: there is a post-norm" in capsys.readouterr().out
    assert main(["conformance", "--recipe", str(path), "--set", "decoder.layer.residual.type=pre"]) == 0
    assert "fails" not in capsys.readouterr().out


def test_tables_continue_with_the_rows_that_were_not_tried(tmp_path: Path) -> None:
    code = fingerprint()
    wanted = ("init x residual", "normal")
    stored = [
        {
            "code": code,
            "table": table.title,
            "row": row,
            "cells": {key: {"decoder_only": None} for key in table.columns},
        }
        for table in tables()
        for row in table.rows
        if (table.title, row) != wanted
    ]
    old = {"code": "of other code", "table": wanted[0], "row": wanted[1], "cells": {}}
    write_rows(tmp_path / "cells.jsonl", [*stored, old])
    found = probe(Settings(tmp_path))
    table, row = wanted
    assert set(found[table][row]["pre"]) == set(KINDS)
    assert all(found[each["table"]][each["row"]] == each["cells"] for each in stored)
    rows = list(read_rows(tmp_path / "cells.jsonl"))
    assert len(rows) == len(stored) + 1
    assert rows[-1]["cells"] == found[table][row]
