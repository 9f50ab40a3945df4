"""Checkpoints that each process writes a part of, while training goes on."""

import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from blockformer.assembly.checkpoint import PARTS, read_metadata, read_training_state
from blockformer.assembly.checkpoint_parts import parts_of
from blockformer.cli.main import main
from blockformer.training.kept_checkpoints import KeptCheckpoints
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.parallel import parts_writer
from tests.training.waiting import wait_for

STEPS = ("--trainer.max_steps", "6", "--trainer.val_check_interval", "3", "--run.save_every", "2")
SHARDED = ("--run.checkpoint", "sharded")


def content_of(run: Path, name: str = "last") -> dict[str, Any]:
    return read_training_state(run / "checkpoints" / f"{name}.ckpt")


def names_in(folder: Path) -> set[str]:
    """The files and folders, without what differs between two runs of a command."""
    parts = f".{PARTS}"
    return {f"parts of {path.name.split('-')[1]}" if path.suffix == parts else path.name for path in folder.iterdir()}


def same(ours: Any, theirs: Any) -> bool:
    """The same tensors and other values; NaN is the same as NaN."""
    if isinstance(ours, torch.Tensor):
        nan = ours.isnan() & theirs.isnan() if ours.shape == theirs.shape else False
        return ours.shape == theirs.shape and bool(((ours == theirs) | nan).all())
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


@pytest.fixture(scope="module")
def run(fit: Callable[..., Path]) -> Path:
    kept = ("--run.keep_last", "2", "--run.keep_best", "2", "--trainer.log_every_n_steps", "1")
    return fit(*STEPS, *SHARDED, *kept, "--optimizer.ema", "0.5", name="sharded")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.slow
def test_it_has_what_a_file_has(run: Path, fit: Callable[..., Path]) -> None:
    file = fit(*STEPS, "--optimizer.ema", "0.5", name="in-one-file")
    for name in ("last", "best"):
        ours, theirs = content_of(run, name), content_of(file, name)
        assert list(ours) == list(theirs)
        for key in ("state_dict", "optimizer_states", "loops", "random_states", "epoch", "global_step"):
            assert same(ours[key], theirs[key]), key
        weights = [content["callbacks"]["WeightAverage"]["weights"] for content in (ours, theirs)]
        assert same(*weights)


def test_the_last_and_the_best_ones_are_kept_and_nothing_else(run: Path) -> None:
    folder = run / "checkpoints"
    best = sorted((read_metadata(folder / f"best-step-{step}.ckpt")["evaluation"]["val/loss"], step) for step in (3, 6))
    assert read_metadata(folder / "best.ckpt")["step"] == best[0][1]
    files = {"last.ckpt", "best.ckpt", "step-4.ckpt", "step-6.ckpt", "best-step-3.ckpt", "best-step-6.ckpt"}
    assert names_in(folder) == files | {"parts of 3", "parts of 4", "parts of 6"}
    assert [read_metadata(folder / f"step-{step}.ckpt")["step"] for step in (4, 6)] == [4, 6]


def test_files_are_kept_too(fit: Callable[..., Path]) -> None:
    folder = fit(*STEPS, "--run.keep_last", "2", "--run.keep_best", "3", name="kept-files") / "checkpoints"
    best = {"best-step-3.ckpt", "best-step-6.ckpt"}
    assert names_in(folder) - best == {"last.ckpt", "best.ckpt", "step-4.ckpt", "step-6.ckpt"}
    assert read_metadata(folder / "last.ckpt")["step"] == 6


def test_rows_have_the_seconds_for_which_training_waited(run: Path) -> None:
    rows = [row for row in read_rows(run / "metrics.jsonl") if "train/loss" in row]
    assert [row["step"] for row in rows if "checkpoint_seconds" in row] == [3, 4, 5]
    assert all(0 < row["checkpoint_seconds"] < row["seconds"] for row in rows if "checkpoint_seconds" in row)


@pytest.mark.slow
def test_waiting_for_the_checkpoint_before_is_counted(
    fit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = parts_writer.PartsWriter._finish

    def slowly(*given: Any) -> None:
        time.sleep(0.4)
        finish(*given)

    monkeypatch.setattr(parts_writer.PartsWriter, "_finish", slowly)
    given = ("--trainer.max_steps", "4", "--trainer.limit_val_batches", "0", "--run.save_every", "1")
    rows = read_rows(fit(*given, *SHARDED, name="slow-disk") / "metrics.jsonl")
    waits = {row["step"]: row["checkpoint_seconds"] for row in rows if "checkpoint_seconds" in row}
    assert waits[3] > 0.3  # step 2 was saved when step 1 was written


@pytest.mark.slow
def test_a_run_goes_on_from_it_as_if_it_had_not_stopped(run: Path, fit: Callable[..., Path]) -> None:
    first = (*STEPS[2:], "--optimizer.ema", "0.5", "--trainer.max_steps", "4", "--optimizer.decay_steps", "6")
    halved = fit(*first, *SHARDED, name="halved")
    fit(*STEPS, *SHARDED, "--optimizer.ema", "0.5", "--ckpt_path", "last", name="halved")
    for key in ("state_dict", "optimizer_states", "random_states"):
        assert same(content_of(halved)[key], content_of(run)[key]), key


def test_other_commands_take_it_as_they_take_a_file(
    copy: Path, tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    last, out = copy / "checkpoints" / "last.ckpt", tmp_path / "one.ckpt"
    assert main(["consolidate", str(last), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: {len(parts_of(last).table.tensors)} tensors of 1 file\n"  # type: ignore[union-attr]
    assert same(read_training_state(out), read_training_state(last))
    assert main(["consolidate", str(out), "--out", str(tmp_path / "two.ckpt")]) == 2
    assert "is one file already" in capsys.readouterr().err
    texts = []
    for path in (last, out):
        assert main(["generate", str(path), "--prompt", "the", "--max-new-tokens", "4", "--greedy"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    before = copy / "checkpoints" / "step-4.ckpt"
    assert main(["average", str(last), str(before), "--out", str(tmp_path / "mean.ckpt")]) == 0
    assert main(["diff", str(last), str(out)]) == 0


def test_a_part_that_is_missing_is_named_in_one_line_with_a_checkpoint_that_is_whole(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = copy / "checkpoints" / "last.ckpt"
    parts = parts_of(last)
    assert parts is not None
    parts.path(0).unlink()
    assert main(["validate", "--ckpt_path", str(last)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{last}: its part {parts.path(0)} is missing" in line
    assert "step-4.ckpt (step 4) is intact" in line


def test_a_part_that_cannot_be_written_ends_the_run_in_one_line_and_leaves_the_one_before(
    arguments: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = parts_writer.write_atomically, []

    def fill(path: Path, save: Any) -> None:
        if path.suffix == ".pt":
            written.append(path)
        if len(written) > 2:
            raise OSError(28, "No space left on device", str(path))
        write(path, save)

    monkeypatch.setattr(parts_writer, "write_atomically", fill)
    never = ["--trainer.limit_val_batches", "0", "--trainer.max_steps", "9", "--run.save_every", "1"]
    where = ["--run.root", str(runs), "--run.name", "full-sharded"]
    assert main(["fit", *arguments, *where, *never, *SHARDED]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the run failed: ")
    assert line.endswith("00000.pt: No space left on device")
    folder = runs / "full-sharded" / "checkpoints"
    assert content_of(folder.parent)["global_step"] == 2
    assert names_in(folder) == {"last.ckpt", "parts of 2"}


@pytest.fixture
def killed(arguments: list[str], runs: Path, start: Callable[..., Any]) -> Path:
    """A run of very many steps that is killed while it writes."""
    long = ["--trainer.max_steps", "100000", "--trainer.limit_val_batches", "0", "--run.save_every", "1"]
    folder = runs / "killed-sharded" / "checkpoints"
    process = start("fit", *arguments, *long, *SHARDED, "--run.root", str(runs), "--run.name", "killed-sharded")
    try:
        wait_for(lambda: (folder / "last.ckpt").exists() and list(folder.glob(f".*.{PARTS}.tmp")), process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    return folder


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_writes_has_the_checkpoint_before(
    killed: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    step = read_training_state(killed / "last.ckpt")["global_step"]
    assert step > 0
    where = ["--run.root", str(killed.parent.parent), "--run.name", killed.parent.name, "--ckpt_path", "last"]
    more = ["--trainer.max_steps", str(step + 1), "--run.save_every", "1", "--trainer.limit_val_batches", "0"]
    assert main(["fit", *arguments, *where, *more, *SHARDED]) == 0, capsys.readouterr()
    assert names_in(killed) == {"last.ckpt", f"parts of {step + 1}"}


def stub(step: int) -> Any:
    """What a writer needs of a trainer of one process, whose tensors are all filled with the number of the step."""
    content = {
        "global_step": step,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {"model.a": torch.full((3, 5), float(step)), "model.b": torch.full((4,), float(step))},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(step), "mean": torch.full((3, 5), float(step))}}}],
        "blockformer": {"format": 1, "recipe": {}, "step": step},
    }
    connector = SimpleNamespace(dump_checkpoint=lambda weights_only: content)
    one = {"world_size": 1, "global_rank": 0, "is_global_zero": True, "_checkpoint_connector": connector}
    return SimpleNamespace(global_step=step, strategy=SimpleNamespace(broadcast=lambda value: value), **one)


def write(step: int, folder: Path) -> None:
    kept = KeptCheckpoints(folder, 1, 1, "val/loss", min)
    writer = parts_writer.PartsWriter(kept.after_write)
    writer.save(stub(step), folder / "last.ckpt")
    writer.wait(stub(step))


def killed_at(number: int, folder: Path) -> bool:
    """Whether a process that writes step 2 was killed at this one of the places where files change."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    passed = itertools.count(1)

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(passed) == number:
                os._exit(9)
            return function(*arguments, **options)

        return call

    for name in ("fsync", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
    write(2, folder)
    os._exit(0)


@pytest.mark.slow
def test_a_kill_anywhere_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    found = []
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        write(1, folder)
        died = killed_at(number, folder)
        content = read_training_state(folder / "last.ckpt")
        step = content["global_step"]
        tensors = [*content["state_dict"].values(), *content["optimizer_states"][0]["state"][0].values()]
        assert all(bool((tensor == step).all()) for tensor in tensors)
        found.append(step)
        if not died:
            break
    assert found == sorted(found)
    assert {1, 2} == set(found)
    assert len(found) > 8
    assert names_in(folder) == {"last.ckpt", "parts of 2"}
