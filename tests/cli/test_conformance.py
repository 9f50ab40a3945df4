"""The command that holds drawn recipes to every promise, and what it keeps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from blockformer.cli.main import main
from blockformer.conformance import judging
from blockformer.conformance.admitting import as_yaml
from blockformer.conformance.full import explain, outcome
from blockformer.conformance.storing import append_row, read_rows, write_rows
from blockformer.conformance.subject import Subject

TREE = {
    "type": "decoder_only",
    "dim": 32,
    "vocab_size": 41,
    "max_length": 16,
    "decoder": {"type": "layers", "depth": 2, "layer": {"residual": {"type": "post", "norm": "rms"}}},
    "head": {"type": "own", "bias": True},
}


def check_has_no_post_norm(subject: Subject) -> None:
    """A promise that the recipe above breaks."""
    if "post" in str(subject.params):
        raise AssertionError("there is a post-norm")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "checks", lambda subject: (check_has_no_post_norm,))
    monkeypatch.setattr(judging, "LONG", frozenset({"backends_agree"}))


@pytest.mark.usefixtures("broken")
def test_a_failure_is_told_with_the_smallest_recipe_and_how_to_see_it_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = outcome({"number": 8, "recipe": TREE})
    assert row["failure"] == {"check": "has_no_post_norm", "error": "AssertionError: there is a post-norm"}
    explain([row], tmp_path)
    told = capsys.readouterr().out
    path = tmp_path / "failures" / "8.yaml"
    assert f"blockformer conformance --recipe {path}" in told
    smallest = path.read_text()
    assert smallest in told
    assert "post" in smallest
    assert "rms" not in smallest
    assert "head" not in smallest


def test_what_is_neither_accepted_nor_refused_is_a_failure() -> None:
    row = outcome({"number": 1, "recipe": {"type": "decoder_only", "no such key": 1}})
    assert row["failure"]["check"] == "admit"


def test_a_line_that_was_torn_off_is_read_as_if_it_were_not_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"number": 0}])
    append_row(path, {"number": 1})
    with path.open("a") as file:
        file.write('{"number": 2, "fail')
    assert [row["number"] for row in read_rows(path)] == [0, 1]
    assert list(read_rows(tmp_path / "absent.jsonl")) == []


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blockformer.cli.main", "conformance", "--count", "3", "--folder", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.startswith("3 recipes, ")
    results = tmp_path / "results.jsonl"
    kept = results.read_text().splitlines()
    results.write_text("\n".join(kept[:2]) + "\n" + kept[2][:20])
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.stdout == first.stdout
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["number"] for row in rows[:2]] == [json.loads(line)["number"] for line in kept[:2]]
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "tiny_decoder"], "--set vocab_size=41 --set max_length=16"),
        (["--recipe", "nowhere.yaml"], "there is no such file"),
    ],
)
def test_what_cannot_be_checked_is_told_in_a_line(
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


@pytest.mark.usefixtures("broken")
def test_a_recipe_can_be_checked_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(as_yaml(TREE))
    assert main(["conformance", "--recipe", str(path)]) == 1
    assert "has_no_post_norm fails: AssertionError: there is a post-norm" in capsys.readouterr().out
    assert main(["conformance", "--recipe", str(path), "--set", "decoder.layer.residual.type=pre"]) == 0
    assert "all hold" in capsys.readouterr().out
