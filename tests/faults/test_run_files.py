"""Damaged files of a run: commands that read them say so, and a row of metrics that is whole is never lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from blockformer.training.json_lines import read_rows
from blockformer.training.loggers import FileLogger
from tests.faults.conftest import Answer
from tests.faults.damage import damaged_bytes, damaged_values

Fit = Callable[..., Path]
READ = (
    "metrics.jsonl",
    "metrics.jsonl",
    "facts.json",
    "config.yaml",
    "recipe.yaml",
    "metrics.csv",
    "evaluations.jsonl",
)


@pytest.fixture(scope="module")
def run(fit: Fit, answer: Callable[..., Answer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 6 steps with 3 validations, also evaluated, without its checkpoints."""
    folder = fit("--trainer.max_steps", "6", "--trainer.val_check_interval", "2", name="for-run-files")
    assert answer("validate", "--ckpt_path", folder / "checkpoints" / "last.ckpt").status == 0
    copy = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoints"))
    return copy


def damage(path: Path, draw: Random) -> str:
    """Damage a file, or the values in it."""
    if path.suffix == ".json" and draw.random() < 0.5:
        kind, values = damaged_values(json.loads(path.read_text()), draw)
        path.write_text(json.dumps(values, default=repr))
        return kind
    if draw.random() < 0.1:
        path.unlink()
        return "removed"
    kind, content = damaged_bytes(path.read_bytes(), draw)
    path.write_bytes(content)
    return kind


@pytest.mark.slow
def test_a_damaged_file_of_a_run_is_named_and_the_rest_is_read(
    run: Path, answer: Callable[..., Answer], faults: int, tmp_path: Path, tally: Callable[[str, str], None]
) -> None:
    shutil.copytree(run, tmp_path / "runs" / "whole")
    ours = tmp_path / "runs" / "ours"
    for number in range(faults):
        draw = Random(number)
        shutil.rmtree(ours, ignore_errors=True)
        shutil.copytree(run, ours)
        file = draw.choice(READ)
        kind = f"{file}: {damage(ours / file, draw)}"
        listed = answer("runs", "--root", ours.parent)
        assert listed.problem is None, (number, kind, listed)
        assert listed.status == 0, (number, kind, listed)
        assert "whole" in listed.out, (number, kind, listed)
        differing = answer("diff", ours, ours.parent / "whole")
        assert differing.problem is None, (number, kind, differing)
        tally("file of a run", "refused by diff" if differing.status else "read by diff")


STRANGE_ROWS = (
    {"step": 6, "val/loss": "x", "val/accuracy": True, "val/bits_per_byte": None},
    {"step": 6, "val/loss": 10**400},
    {"step": 2**70, "val/loss": 1.0},
    {"step": -5, "val/lo\x1b[31mss": 2.0},
    {"step": True, "val/loss": [1]},
)


@pytest.mark.parametrize("row", STRANGE_ROWS, ids=range(len(STRANGE_ROWS)))
def test_strange_figures_and_facts_of_a_run_are_listed_in_lines(
    row: dict[str, Any], run: Path, answer: Callable[..., Answer], tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "runs" / "whole")
    strange = Path(shutil.copytree(run, tmp_path / "runs" / "strange\x1b[31m"))
    with (strange / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    facts = json.loads((strange / "facts.json").read_text())
    deep = json.loads("[" * 400 + "]" * 400)
    for changes in ({}, {"variant": {"type": 3}, "trainer": 5}, {"\x1b[31m": "\x1b[31m"}, {"data": deep}):
        (strange / "facts.json").write_text(json.dumps(facts | changes))
        words = ["runs", "--root", strange.parent, "--sort", "val/loss"]
        for command in (words, [*words, "--format", "markdown"], ["diff", strange, strange.parent / "whole"]):
            found = answer(*command)
            assert found.problem is None, (changes, found)
            assert "\x1b" not in found.out
        assert "whole" in answer(*words).out


def test_no_whole_row_of_damaged_metrics_is_lost(
    run: Path, faults: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], tally: Callable[[str, str], None]
) -> None:
    path, lines = tmp_path / "metrics.jsonl", (run / "metrics.jsonl").read_bytes().splitlines()
    for number in range(faults):
        for file in tmp_path.iterdir():
            file.unlink()
        shutil.copy(run / "metrics.jsonl", path)
        kind = damage(path, Random(number))
        left = path.read_bytes().split(b"\n") if path.exists() else []
        whole = [json.loads(line) for line in lines if line in left]
        logger = FileLogger(tmp_path)
        logger.rewind(6)
        logger.log_metrics({"train/loss": 1.5}, 7)
        logger.finalize("success")
        rows = read_rows(path)
        assert [row for row in whole if row not in rows] == [], (number, kind)
        assert rows[-1] == {"step": 7, "train/loss": 1.5}, (number, kind)
        assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + len(rows), (number, kind)
        noted = capsys.readouterr().err
        assert (tmp_path / "metrics.damaged.jsonl").exists() == bool(noted), (number, kind, noted)
        tally("metrics", "set aside" if noted else "read as it is")


def test_metrics_of_any_size_fill_no_memory(run: Path, answer: Callable[..., Answer], tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "runs" / "whole")
    large = Path(shutil.copytree(run, tmp_path / "runs" / "large"))
    with (large / "metrics.jsonl").open("ab") as stream:
        stream.truncate(20 * 2**30)
    found = answer("runs", "--root", large.parent)
    assert (found.status, found.problem) == (0, None)
    assert "21,474,836,480 bytes, and at most 1,073,741,824 are listed" in found.out
    assert "whole" in found.out
    assert answer("diff", large, large.parent / "whole").problem is None
