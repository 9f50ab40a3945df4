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
        processes._close()


Begin = Callable[..., Running]


@pytest.fixture(params=[True, False], ids=["forked", "new"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Begin:
    """Begins a command, in both ways; it prints to `log.txt`."""

    def run(*arguments: str, kept: tuple[int, ...] = (), **environment: str) -> Running:
        with (tmp_path / "log.txt").open("ab") as log:
            return begin(arguments, {**os.environ, **environment}, log, kept, forked=request.param)

    return run


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
        while not (tmp_path / end / "metrics.jsonl").exists():
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(0.05)
        getattr(running, end)()
        assert running.wait(300) == status
        assert line in log.read_text()


@pytest.mark.slow
def test_a_command_keeps_descriptors_open_until_it_ends(command: Begin) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        running = command("recipes", kept=(writer,))
        os.close(writer)
        assert stream.read() == b""  # when nobody holds the other end any more
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


@pytest.mark.slow
def test_commands_go_on_when_the_server_is_killed_and_the_next_gets_another(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("ab") as log:
        running = begin(["recipes"], os.environ, log, (), forked=True)
        assert isinstance(running, Forked)
        first = processes._running
        assert first is not None
        os.kill(running.pid, signal.SIGSTOP)
        first[1]._process.kill()
        assert running.wait(60) == LOST
        os.kill(running.pid, signal.SIGCONT)
        assert begin(["recipes"], os.environ, log, (), forked=True).wait(300) == 0
    listed = (tmp_path / "log.txt").read_text().splitlines().count
    assert listed(next(iter((tmp_path / "log.txt").read_text().splitlines()))) == 2


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
    end = time.monotonic() + 300
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_server_that_cannot_load_the_packages_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SERVER", "import sys; sys.exit({descriptor})")
    broken: Any = Server(os.environ)
    with (tmp_path / "log.txt").open("ab") as log, pytest.raises(OSError):  # noqa: PT011  (which one depends on when)
        broken.begin(["recipes"], os.environ, log, ())
    broken.close()
