"""Processes of a run that stop, end or no longer answer."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from blockformer.assembly.checkpoint import read_metadata
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.parallel import heartbeat
from blockformer.training.parallel.heartbeat import Heartbeat
from tests.training.waiting import wait_for

TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_steps", "100000", "--run.save_every", "5"]


def second_of(process: Any) -> int:
    (second,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(second)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGSTOP", "SIGKILL"])
def test_the_others_say_which_process_is_missing_and_end(
    how: str, start: Callable[..., Any], arguments: list[str], runs: Path
) -> None:
    name = f"missing-{how}"
    process = start("fit", *arguments, *TWO, "--run.root", str(runs), "--run.name", name, "--run.timeout", "0.1")
    try:
        wait_for(lambda: len(read_rows(runs / name / "metrics.jsonl")) > 5, process)
        second = second_of(process)
        os.kill(second, getattr(signal, how))
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1
    *_, last = output.splitlines()
    if how == "SIGSTOP":
        assert f"the run failed: process 1 of 2 ({os.uname().nodename}, process id {second}) has not answered" in last
        assert "(--run.timeout); continue with --ckpt_path last" in last
    else:
        assert last == "the run failed: process 1 of 2 has ended with SIGKILL; continue with --ckpt_path last"
    assert "Traceback" not in output
    assert read_metadata(runs / name / "checkpoints" / "last.ckpt")["step"] >= 5
    stat = Path(f"/proc/{second}/stat")
    assert not stat.exists() or ") Z " in stat.read_text()  # ended, whether or not it is reaped


class Store(dict[str, bytes]):
    """The part of a TCPStore that a heartbeat uses."""

    answers = True

    def set(self, key: str, value: Any) -> None:
        if not self.answers:
            raise dist.DistNetworkError("gone")
        self[key] = value if isinstance(value, bytes) else value.encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def get(self, key: str) -> bytes:  # type: ignore[override]
        return self[key]


def ended(monkeypatch: pytest.MonkeyPatch, act: Callable[[list[Heartbeat], Store], None], seconds: float) -> list[str]:
    """The lines with which processes end; each is two threads of this process."""
    lines: list[str] = []

    def end(line: str) -> None:
        lines.append(line)
        for beat in beats:
            beat.stop()

    monkeypatch.setattr(heartbeat, "end_at_once", end)
    monkeypatch.setattr(os, "_exit", lambda status: lines.append("without a word"))
    monkeypatch.setattr(heartbeat, "AFTER_THE_FIRST", 0.0)
    store = Store()
    beats = [Heartbeat(rank, 3, store, 1.0) for rank in range(3)]
    for beat in beats:
        beat.start()
    time.sleep(0.5)
    act(beats, store)
    time.sleep(seconds)
    for beat in beats:
        beat.stop()
    return lines


@pytest.mark.slow
def test_a_process_that_is_done_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(monkeypatch, lambda beats, store: beats[1].stop(), 2) == []


def test_a_process_that_is_done_has_no_thread_in_the_store() -> None:
    slow = Store()
    slow.check = lambda keys: bool(time.sleep(0.3))  # type: ignore[method-assign]
    beat = Heartbeat(0, 3, slow, 60.0)
    beat.start()
    time.sleep(0.1)  # it is in a call now
    beat.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    assert slow["beat/0"] == heartbeat.DONE


@pytest.mark.slow
def test_a_process_whose_beat_stops_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(beats: list[Heartbeat], store: Store) -> None:
        store.set("beat/1", "the last")
        monkeypatch.setattr(store, "set", lambda key, value: None if "1" in key else Store.set(store, key, value))

    lines = [line for line in ended(monkeypatch, stop, 2.5) if line != "without a word"]
    assert lines[0].startswith("the run failed: process 1 of 3")


@pytest.mark.slow
def test_a_store_that_does_not_answer_means_the_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def silence(beats: list[Heartbeat], store: Store) -> None:
        beats[0].stop()
        store.answers = False

    lines = [line for line in ended(monkeypatch, silence, 2.5) if line != "without a word"]
    assert set(lines) == {lines[0]}
    assert lines[0].startswith("the run failed: process 0 of 3")


def test_a_silent_store_makes_no_other_process_missing() -> None:
    beat = Heartbeat(2, 3, Store(), 1.0)
    beat._answered, beat._seen = 100.0, {0: (b"5", 99.5), 1: (b"5", 99.2)}
    assert beat.missing(100.5) == []
    assert beat.missing(101.1) == [0]
    beat._answered = 100.5
    assert beat.missing(100.6) == [1]
