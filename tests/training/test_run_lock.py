"""One run has one process; what a killed process leaves behind stops nobody."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blockformer.cli.main import main
from blockformer.errors import UserError
from blockformer.training import run_lock
from blockformer.training.run_lock import LOCK, RunLock, lock_new

HOLD = "import sys, time; from pathlib import Path; from blockformer.training.run_lock import RunLock; {}; "
HOLD += "lock = RunLock(Path(sys.argv[1])); print('held', flush=True); {}; time.sleep(100)"


def hold(folder: Path, before: str = "0", after: str = "0") -> "subprocess.Popen[str]":
    """A process that holds the lock of a folder."""
    command = [sys.executable, "-c", HOLD.format(before, after), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_by_name_until_the_first_is_killed(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    try:
        named = rf"run is being trained by process {process.pid} on \S+ since 20\d\d-.*: wait for it, stop it"
        with pytest.raises(UserError, match=named):
            RunLock(tmp_path / "run")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    RunLock(tmp_path / "run").release()


def test_a_process_that_was_forked_does_not_keep_the_lock(tmp_path: Path) -> None:
    process = hold(tmp_path / "run", "import os", "os.fork() or print(os.getpid(), flush=True)")
    assert process.stdout is not None
    child = int(process.stdout.readline())  # said by the child itself, which is then behind the fork
    try:
        process.kill()
        process.wait()
        RunLock(tmp_path / "run").release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    RunLock(tmp_path / "runs" / "refused").release()
    assert not (tmp_path / "runs" / "refused").exists()
    lock = RunLock(tmp_path / "runs" / "used")
    (lock.folder / "metrics.jsonl").touch()
    lock.release()
    assert (lock.folder / LOCK).read_bytes() == b""
    RunLock(lock.folder).release()
    assert (lock.folder / "metrics.jsonl").exists()


def test_runs_of_one_name_that_start_together_have_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        locks = list(threads.map(lambda _: lock_new(tmp_path, "run"), range(24)))
    assert len({lock.folder for lock in locks}) == 24
    for lock in locks:
        lock.release()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT", 0.05)
    monkeypatch.setattr(run_lock, "PATIENCE", 0.4)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kernel", [True, False])
def test_the_owner_on_another_machine_is_known_by_its_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kernel: bool
) -> None:
    def other_machine(descriptor: int) -> bool | None:
        return True if kernel else None  # its locks are not seen here, or there are none

    monkeypatch.setattr(run_lock, "_lock", other_machine)
    lock = RunLock(tmp_path / "run")
    record = json.loads((tmp_path / "run" / LOCK).read_text()) | {"machine": "elsewhere", "host": "elsewhere"}
    (tmp_path / "run" / LOCK).write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"is being trained by process \d+ on elsewhere since"):
        RunLock(tmp_path / "run")
    lock._released.set()  # it dies without a word
    time.sleep(0.2)
    RunLock(tmp_path / "run").release()
    assert "waiting 0 seconds for a sign of life" in capsys.readouterr().err


@pytest.mark.parametrize("record", [b"\xff\x00", b"[" * 900, b'{"process": "\x1b[2J"}', b"[1]", b"{}"])
def test_a_damaged_record_stops_nobody(tmp_path: Path, record: bytes) -> None:
    (tmp_path / LOCK).write_bytes(record)
    lock = RunLock(tmp_path)
    (tmp_path / LOCK).write_bytes(record)
    with pytest.raises(UserError, match="is being trained by another process: wait"):
        RunLock(tmp_path)
    lock.release()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "file instead of a folder"])
def test_what_cannot_be_a_lock_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    if kind == "file instead of a folder":
        folder.write_text("")
    else:
        folder.mkdir()
        make = {"link": lambda path: path.symlink_to(tmp_path / "elsewhere"), "pipe": os.mkfifo, "folder": Path.mkdir}
        make[kind](folder / LOCK)
    with pytest.raises(UserError, match=r"run.*: cannot be used for a run: "):
        RunLock(folder)


def test_a_run_that_trains_is_neither_begun_again_nor_continued_nor_touched(
    fit: Callable[..., Path], arguments: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fit("--trainer.max_steps", "2", name="busy")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != LOCK}
    lock = RunLock(folder)
    try:
        for more in ([], ["--ckpt_path", "last"], ["--ckpt_path", str(folder / "checkpoints" / "best.ckpt")]):
            assert main(["fit", *arguments, "--run.root", str(runs), "--run.name", "busy", *more]) == 2
            assert f"{folder} is being trained by process {os.getpid()} on" in capsys.readouterr().err
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != LOCK}
        quiet = ["--trainer.enable_progress_bar", "false"]
        assert main(["validate", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), *quiet]) == 0
    finally:
        lock.release()
