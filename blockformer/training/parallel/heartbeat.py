"""Detect that another process of a run no longer answers, say which, and end the run instead of waiting."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer

from blockformer.training.parallel.launcher import advice, connect_started_again, end_at_once

DONE = b"done"
LAST_ANSWER = 5.0  # seconds for the store to answer a process that is done
AFTER_THE_FIRST = 3.0  # seconds that the others leave to the process that prints the line


class Heartbeat:
    """Two threads: one writes a counter to the store of the process group and reads those of the others, one watches.

    A process whose counter stands still for longer than the timeout is missing; the process with the lowest rank that
    is not prints which, and all end. The store lies in process 0, so when it does not answer, process 0 is missing.
    Time in which this process itself was stopped does not count.

    Args:
        rank: of this process.
        world: number of processes.
        store: of the process group; used by no other thread.
        seconds: the timeout.
        advice: ends the line.
    """

    def __init__(self, rank: int, world: int, store: Any, seconds: float, advice: Callable[[], str] = str) -> None:
        self._rank, self._world, self._store, self._seconds = rank, world, store, seconds
        self._advice = advice
        self._interval = min(5.0, seconds / 10)
        self._ended = threading.Event()
        now = time.monotonic()
        self._seen = {other: (b"", now) for other in range(world) if other != rank}
        self._answered = now  # when the store did
        self._names = {other: f"process {other} of {world}" for other in range(world)}
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to beat and to watch."""
        self._threads = [
            threading.Thread(target=run, daemon=True, name="heartbeat") for run in (self._beat, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """This process is done; the others need not wait for it.

        Waits for the threads: one that is in a call of the store when the interpreter ends would abort the process.
        """
        self._ended.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(LAST_ANSWER)

    def missing(self, now: float) -> list[int]:
        """The processes that have not answered within the timeout, as far as the store has told."""
        if now - self._answered > self._seconds and self._rank != 0:
            return [0]
        heard = self._answered  # what was not heard since then may be the store's silence
        return [rank for rank, (beat, at) in self._seen.items() if beat != DONE and heard - at > self._seconds]

    def _beat(self) -> None:
        count = 0
        with contextlib.suppress(Exception):
            self._store.set(f"host/{self._rank}", f"{socket.gethostname()}, process id {os.getpid()}")
        while True:
            ended, count = self._ended.wait(self._interval if count else 0), count + 1
            with contextlib.suppress(Exception):  # the store does not answer
                self._store.set(f"beat/{self._rank}", DONE if ended else str(count))
                self._listen()
                self._answered = time.monotonic()
            if ended:
                return

    def _listen(self) -> None:
        for rank, (last, _) in self._seen.items():
            if self._store.check([f"beat/{rank}"]) and (beat := self._store.get(f"beat/{rank}")) != last:
                self._seen[rank] = beat, time.monotonic()
                if not last and self._store.check([f"host/{rank}"]):
                    self._names[rank] += f" ({self._store.get(f'host/{rank}').decode()})"

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(self._interval):
            now = time.monotonic()
            if now - before > 3 * self._interval:  # this process was stopped itself: give the others their time again
                self._answered = now
                self._seen = {rank: (beat, now) for rank, (beat, _) in self._seen.items()}
            elif found := self.missing(now):
                self._end(found)
            before = now

    def _end(self, missing: list[int]) -> None:
        if self._rank != min(rank for rank in range(self._world) if rank not in missing):
            time.sleep(AFTER_THE_FIRST)
            os._exit(1)
        named = " and ".join(self._names[rank] for rank in missing)
        verb, minutes = "has" if len(missing) == 1 else "have", self._seconds / 60
        end_at_once(
            f"the run failed: {named} {verb} not answered for {minutes:g} minutes (--run.timeout){self._advice()}"
        )


def watch_processes(trainer: Trainer, minutes: float) -> None:
    """Have a trainer of several processes watch them from the moment they are connected until it is done."""
    strategy: Any = trainer.strategy
    connect, leave = strategy.setup_environment, strategy.teardown
    beats: list[Heartbeat] = []

    def setup_environment() -> None:
        connect_started_again(strategy)
        connect()
        if trainer.world_size > 1 and dist.is_initialized():
            store: Any = dist.distributed_c10d._get_default_store()
            place = trainer.global_rank, trainer.world_size
            beats.append(Heartbeat(*place, store.clone(), minutes * 60, lambda: advice(trainer)))
            beats[-1].start()

    def teardown() -> None:
        for beat in beats:
            beat.stop()
        leave()

    strategy.setup_environment, strategy.teardown = setup_environment, teardown
