"""Commands as forks of one process: they behave like commands in new processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from blockformer.studies import processes
from blockformer.studies.processes import LOST, Forked, Running, Server, begin

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """The server of the module's tests ends with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
        processes.close_all()


Begin = Callable[..., Running]


@pytest.fixture(params=[True, False], ids=["forked", "new"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Begin:
    """Begins a command, in both ways; it prints to `log.txt`."""

    def run(*arguments: str, kept: tuple[int, ...] = (), **environment: str) -> Running:
        with (tmp_path / "log.txt").open("ab") as log:
            return begin(arguments, {**os.environ, **environment}, log, kept, forked=request.param)

    return run


@pytest.mark.slow
def test_status_and_output_are_those_of_the_command(
    command: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "recipes/tiny_decoder.yaml", tmp_path / "mine.yaml")
    assert command("check", "mine.yaml").wait(300) == 0  # a path relative to this process's folder
    assert command("check", "nothing").wait(300) == 2
    good, bad = (tmp_path / "log.txt").read_text().splitlines()
    assert good.startswith("mine.yaml: ok")
    assert "nothing" in bad


@pytest.mark.slow
def test_a_command_that_is_asked_to_end_says_so_and_one_that_is_killed_does_not(
    command: Begin, tmp_path: Path, arguments: list[str]
) -> None:
    log = tmp_path / "log.txt"
    for end, status, line in (("terminate", 143, "stopped by SIGTERM"), ("kill", -signal.SIGKILL, "")):
        where = ["--run.root", str(tmp_path), "--run.name", end, "--trainer.max_steps", "100000"]
        running = command("fit", *arguments, *where)
        wait_for_steps(running, tmp_path / end)
        getattr(running, end)()
        assert running.wait(300) == status
        assert line in log.read_text()


@pytest.mark.slow
def test_a_command_keeps_descriptors_open_until_it_ends(command: Begin) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        running = command("recipes", kept=(writer,))
        os.close(writer)
        assert stream.read() == b""  # at its end once no process has the writer open
        assert running.wait(300) == 0


@pytest.mark.slow
def test_both_ways_train_the_same(tmp_path: Path, arguments: list[str]) -> None:
    for way in ("forked", "new"):
        with (tmp_path / "log.txt").open("ab") as log:
            where = ["--trainer.max_steps", "5", "--run.root", str(tmp_path), "--run.name", way]
            assert begin(["fit", *arguments, *where], os.environ, log, (), forked=way == "forked").wait(600) == 0
    last = [torch.load(tmp_path / way / "checkpoints/last.ckpt", weights_only=True) for way in ("forked", "new")]
    forked, new = (checkpoint["state_dict"] for checkpoint in last)
    assert forked.keys() == new.keys()
    assert all(forked[name].equal(new[name]) for name in new)


def wait_for_steps(running: Running, folder: Path) -> None:
    while not (folder / "metrics.jsonl").exists():
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.05)


def server_of_these_tests() -> Server:
    ((_, server),) = processes._servers
    return server


@pytest.mark.slow
def test_a_command_whose_server_is_killed_is_waited_for_and_stopped(tmp_path: Path, arguments: list[str]) -> None:
    where = ["--run.root", str(tmp_path), "--run.name", "orphan", "--trainer.max_steps", "100000"]
    with (tmp_path / "log.txt").open("ab") as log:
        running = begin(["fit", *arguments, *where], os.environ, log, (), forked=True)
        wait_for_steps(running, tmp_path / "orphan")
        server_of_these_tests()._process.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1)
        running.terminate()
        assert running.wait(300) == LOST
        assert "stopped by SIGTERM" in (tmp_path / "log.txt").read_text()
        assert begin(["recipes"], os.environ, log, (), forked=True).wait(300) == 0  # of another server


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_ends_the_commands_and_not_their_server(
    tmp_path: Path, arguments: list[str]
) -> None:
    where = ["--run.root", str(tmp_path), "--run.name", "job", "--trainer.max_steps", "100000"]
    with (tmp_path / "log.txt").open("ab") as log:
        running = begin(["fit", *arguments, *where], os.environ, log, (), forked=True)
        assert isinstance(running, Forked)
        wait_for_steps(running, tmp_path / "job")
        for pid in (server_of_these_tests()._process.pid, running.pid):
            os.kill(pid, signal.SIGTERM)
        assert running.wait(300) == 143
        assert server_of_these_tests().usable


@pytest.mark.slow
def test_a_command_whose_study_has_ended_is_not_begun(tmp_path: Path, arguments: list[str]) -> None:
    """The study ends while the server still loads the packages."""
    program = (
        "import os, sys, time\nfrom blockformer.studies.processes import Server\n"
        "server = Server(os.environ)\n"
        "socket = server.send(sys.argv[1:], os.environ, open('log.txt', 'ab'), ())\n"
        "print(server._process.pid, flush=True)\nos._exit(0)"
    )
    where = ["--run.root", str(tmp_path), "--run.name", "abandoned", "--trainer.max_steps", "100000"]
    command = [sys.executable, "-c", program, "fit", *arguments, *where]
    owner = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    wait_for_end(int(owner.stdout))
    time.sleep(3)
    assert not (tmp_path / "abandoned").exists()


def wait_for_end(pid: int) -> None:
    end = time.monotonic() + 300
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_server_ends_with_its_owner(tmp_path: Path) -> None:
    program = (
        "import os, time\nfrom blockformer.studies.processes import Server\n"
        "print(Server(os.environ)._process.pid, flush=True)\ntime.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_for_end(pid)


def test_a_server_that_cannot_load_the_packages_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SERVER", "import sys; sys.exit({descriptor})")
    broken: Any = Server(os.environ)
    with (tmp_path / "log.txt").open("ab") as log, pytest.raises(OSError):  # noqa: PT011  (which one depends on when)
        Forked(broken.send(["recipes"], os.environ, log, ()))
    broken.close()
