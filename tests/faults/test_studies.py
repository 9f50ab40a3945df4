"""A study's folder that is damaged or comes from a stranger: one line, or repaired; nothing outside is touched."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from blockformer.studies import processes
from blockformer.studies.plan import make_plan
from blockformer.studies.run_result import Result, store
from blockformer.studies.study import read_study
from tests.faults.conftest import Answer
from tests.faults.damage import damaged_bytes, damaged_values
from tests.faults.test_command_lines import at_most
from tests.studies.pretended_fit import instead

STUDY = """\
question: Which?
base: tiny_decoder
overrides: {decoder.depth: 1}
variants: {none: {decoder.layer.feedforward: none}}
seeds: 2
tasks: {one: {}, other: {figure: val/accuracy}}
fit: {data: {tokenizer: bytes, length: 16}, trainer: {max_steps: 4}}
"""
WHOLE = ["--no-speed", "--run.wandb", "disabled"]
READ = ("plan.json", "looks.json", "results.json", "results")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "which.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def whole(study: Path, answer: Callable[..., Answer]) -> Path:
    """The folder of a finished study, whose runs were not trained but have made-up results, with seeds added."""
    folder = study.parent / "whole"
    for added in ([], ["--add-seeds", "1"]):
        changes = {"seeds": 3} if added else {}
        for part in read_study(study, changes=changes).tasks:
            for run in make_plan(part).answer_runs():
                figures = {"val/loss": 2.0 + 0.1 * run.seed, "val/accuracy": 0.5}
                curve = [{"step": 4, "tokens": 64, "seconds": 1.0, **figures}]
                status = "answer", "finished"
                store(folder, Result(run.id, run.variant, run.seed, None, *status, 2.0, figures, curve, 1.0))
        found = answer("compare", study, "--out", folder, *WHOLE, *added)
        assert (found.status, found.problem) == (0, None), found
    return folder


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without a result end at once; the study says so."""
    ends = instead(sys.executable, "-c", "import sys; print('nothing is trained here'); sys.exit(2)")
    monkeypatch.setattr(processes, "begin", ends)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "stranger")


def files_of(folder: Path) -> list[Path]:
    """The files that a study reads again."""
    places = [folder / name for name in READ] + [folder / task / name for task in ("one", "other") for name in READ]
    return [file for place in places for file in (sorted(place.iterdir()) if place.is_dir() else [place])]


def test_any_damage_of_what_a_study_has_stored_is_refused_in_one_line_or_repaired(
    study: Path,
    whole: Path,
    folder: Path,
    answer: Callable[..., Answer],
    faults: int,
    tally: Callable[[str, str], None],
) -> None:
    files = [path.relative_to(whole) for path in files_of(whole) if path.is_file()]
    for number in range(faults):
        draw = Random(f"study {number}")
        file = draw.choice(files)
        if draw.random() < 0.6 and isinstance(content := json.loads((whole / file).read_text()), dict):
            kind, values = damaged_values(content, draw)
            (folder / file).write_text(json.dumps(values, default=repr))
        else:
            kind, damaged = damaged_bytes((whole / file).read_bytes(), draw)
            (folder / file).write_bytes(damaged)
        words = draw.choice([[], ["--task", "one"], ["--task", "other"], ["--add-seeds", "1"], ["--only", "x"]])
        with at_most(60):
            found = answer("compare", study, "--out", folder, *WHOLE, *words)
        assert found.problem is None, (number, file, kind, words, found)
        assert found.status in (0, 2), (number, file, kind, words, found)
        tally("folder of a study", "refused" if found.status else "repaired or without effect")
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)


Change = Callable[[Path, Path], object]


def replaced(file: Path) -> Path:
    """The place of a file or a folder that is gone."""
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)
    return file


def first(folder: Path, name: str) -> Path:
    return sorted((folder / name).iterdir())[0]


def untrained(folder: Path) -> Path:
    """The log of a run that has no result any more."""
    result = first(folder, "results")
    result.unlink()
    (folder / "logs").mkdir(exist_ok=True)
    return folder / "logs" / f"{result.stem}.txt"


LINKS: dict[str, Change] = {
    "log": lambda folder, canary: untrained(folder).symlink_to(canary),
    "logs": lambda folder, canary: (untrained(folder), replaced(folder / "logs").symlink_to(canary.parent)),
    "runs": lambda folder, canary: (folder / "runs").symlink_to(canary.parent),
    "run": lambda folder, canary: (
        (folder / "runs").mkdir(),
        (folder / "runs" / untrained(folder).stem).symlink_to(canary.parent),
    ),
    "result": lambda folder, canary: replaced(first(folder, "results")).symlink_to(canary),
    "results": lambda folder, canary: replaced(folder / "results").symlink_to(canary.parent),
    "plan": lambda folder, canary: replaced(folder / "one" / "plan.json").symlink_to(canary),
    "page": lambda folder, canary: replaced(folder / "report.html").symlink_to(canary),
    "task": lambda folder, canary: replaced(folder / "one").symlink_to(canary.parent),
}


@pytest.mark.parametrize("what", LINKS)
def test_no_link_leads_out_of_a_study(
    what: str, study: Path, folder: Path, canary: Path, answer: Callable[..., Answer]
) -> None:
    LINKS[what](folder, canary)
    before = set(canary.parent.iterdir())
    found = answer("compare", study, "--out", folder, *WHOLE)
    assert (found.status, found.problem) == (2, None), found
    assert found.err.count("\n") == 1
    assert "is a link" in found.err
    assert set(canary.parent.iterdir()) == before


@pytest.mark.parametrize(
    "file", ["one/plan.json", "looks.json", "one/looks.json", "one/results.json", "results", "logs"]
)
def test_a_pipe_in_a_study_is_not_waited_for(
    file: str, study: Path, folder: Path, answer: Callable[..., Answer]
) -> None:
    path = first(folder, file) if file == "results" else untrained(folder) if file == "logs" else folder / file
    os.mkfifo(replaced(path))
    with at_most(60):
        found = answer("compare", study, "--out", folder, *WHOLE)
    assert found.problem is None, found
    assert found.status in (0, 1, 2)


def test_the_result_of_another_run_is_refused(study: Path, folder: Path, answer: Callable[..., Answer]) -> None:
    one, other = sorted((folder / "results").iterdir())[:2]
    shutil.copyfile(one, other)
    found = answer("compare", study, "--out", folder, *WHOLE)
    assert (found.status, found.problem) == (2, None)
    assert f"{other.name}: is the result of another run; remove it" in found.err


def test_as_many_seeds_as_fit_can_be_added(study: Path, folder: Path, answer: Callable[..., Answer]) -> None:
    found = answer("compare", study, "--out", folder, *WHOLE, "--add-seeds", "1000000000")
    assert (found.status, found.problem) == (2, None)
    assert "--add-seeds 1000000000: at most 1000 can be added" in found.err
