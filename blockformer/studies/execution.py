"""Execute the runs of a study: each in a process of its own, claimed by a lock, repeated until it has a result."""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from blockformer import signals
from blockformer.errors import UserError
from blockformer.studies.claims import CLAIMS, Claims, is_locked
from blockformer.studies.commands import STOPPED, Commands
from blockformer.studies.run import Run
from blockformer.studies.run_result import RequestedFigures, Result, Status, collected, store, stored
from blockformer.training.callbacks.non_finite import DIVERGED
from blockformer.training.run_lock import BUSY, RunLock

T = TypeVar("T")
ATTEMPTS = 3  # of a run that fails for another reason than its loss
WRONG = 2  # exit status of a command that refuses what it was given
WAIT = 2.0  # seconds until claimed runs of other workers are looked at again


class RunFailedError(UserError):
    """A run failed for another reason than its loss, each time it was tried."""


class InterruptedStudy(Exception):  # noqa: N818  (not an error: the study was asked to stop)
    """A signal ended the study; runs in progress have saved, and the same command continues it.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; run the same command to continue")
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it."""
        return 128 + self.signum


class Watch:
    """Receives the events of a study, to show them; this base class ignores them."""

    def planned(self, runs: Sequence[Run], workers: int) -> None:
        """Before runs are executed: all that are wanted now, with and without a result, and how many at a time."""

    def event(self, run: Run, word: str) -> None:
        """A run `begins`, is `elsewhere` (another worker executes it), is `finished`, `diverged` or has `failed`."""

    def stopping(self) -> None:
        """The study was asked to stop, and waits for its runs to save."""

    def ended(self) -> None:
        """No more runs are executed for now."""


class Executor:
    """Executes runs in a study's folder, several at a time; other processes may work on the same folder.

    A run is claimed by a lock in `claims/`, which its `blockformer fit` inherits, so that no other worker begins the
    run until both processes have ended. A claim whose owner shows no sign of life (a stopped process, or one on a
    machine that died) is taken over as soon as nothing trains in the run's folder.

    Args:
        folder: the study's: `runs/`, `results/`, `claims/`.
        name: the study's label; W&B's group.
        figure: such as `val/loss`, `test/accuracy` or `val/loss@2x`.
        lengths: multiples of the trained length at which finished models are validated too.
        workers: runs at a time.
        options: further options of `blockformer fit`, such as `--run.wandb offline`.
        watch: receives an event when a run begins, ends or is taken over.
        gpus: the GPUs of each worker, as values of CUDA_VISIBLE_DEVICES; empty: runs see what this process sees.
        leave: whether to end when other workers have claimed all runs that are left, instead of waiting for them.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        figure: str,
        *,
        lengths: Sequence[int] = (),
        workers: int = 1,
        options: Sequence[str] = (),
        watch: Watch | None = None,
        gpus: Sequence[str] = (),
        leave: bool = False,
    ) -> None:
        self.folder, self.name, self.workers = folder, name, workers
        self.wanted = RequestedFigures(figure, tuple(lengths))
        self.watch, self.leave = watch or Watch(), leave
        self.commands = Commands(folder, name, self.wanted, options, threads=max(1, _cpus() // workers))
        self.stopping = self.commands.stopping
        self.wrong = ""
        self.signum = 0
        self._guard = threading.Lock()
        self._places: queue.Queue[str | None] = queue.Queue()
        for index in range(workers):
            self._places.put(gpus[index % len(gpus)] if gpus else None)
        self._claims = Claims(folder / CLAIMS)

    def result(self, run: Run) -> Result | None:
        """The stored result of a run; None: it has none yet, or not all figures that are wanted."""
        return self.wanted.result(self.folder, run)

    def execute(self, runs: Sequence[Run]) -> list[Result]:
        """Run everything that has no result yet, and wait for what other workers have claimed.

        Raises:
            UserError: a run refused its settings; what is in progress is finished, and nothing else is begun.
            RunFailedError: runs failed; the others are finished first.
            InterruptedStudy: the study was asked to stop; runs in progress have saved and will be continued.
        """
        self.watch.planned(runs, self.workers)
        try:
            with self._interruptible():
                failures = self._executed([run for run in runs if self.result(run) is None])
        finally:
            self.watch.ended()
        if self.signum:
            raise InterruptedStudy(self.signum)
        if self.wrong:
            raise UserError(self.wrong)
        if failures:
            raise RunFailedError("\n".join(failures))
        found = [self.result(run) for run in runs]
        return [result for result in found if result is not None]

    def call(self, function: Callable[[], T]) -> T:
        """Call a function where the runs are executed: here."""
        return function()

    def _executed(self, pending: Sequence[Run]) -> list[str]:
        """Execute runs. Returns what failed."""
        failures: list[str] = []
        with ThreadPoolExecutor(self.workers, initializer=_block_warnings) as pool:
            futures = [pool.submit(self._finish, run, failures) for run in pending]
            try:
                for future in futures:
                    while not future.done() and not self.signum:
                        time.sleep(0.05)  # and not inside a lock, where a signal would not be handled
                    if not self.signum:
                        future.result()
            except BaseException:
                self.stop()
                raise
            if self.signum:
                self.stop()
        return failures

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Note the first signal; the second ends this process and its runs at once."""

        def note(signum: int) -> None:
            self.signum = signum
            self.stopping.set()

        undo = signals.deferred(note)
        signals.before_exit.append(self.commands.kill)
        try:
            yield
        finally:
            signals.before_exit.remove(self.commands.kill)
            undo()

    def stop(self) -> None:
        """Ask the runs in progress to save and end, and wait for them."""
        self.commands.stop(self.watch.stopping)

    def _finish(self, run: Run, failures: list[str]) -> None:
        """Execute a run unless another worker does; then wait until that one has finished or died."""
        elsewhere = False
        while not self.stopping.is_set():
            if (result := self.result(run)) is not None:
                if elsewhere:
                    self.watch.event(run, result.status)
                return
            if (lock := self._claims.take(run.id, self.commands.run_folder(run))) is not None:
                try:
                    if self.result(run) is None and (failure := self._attempt(run, lock)):
                        failures.append(failure)
                        return
                finally:
                    lock.release()
            elif self.leave:
                return
            else:
                if not elsewhere:
                    self.watch.event(run, "elsewhere")
                elsewhere = True
                self.stopping.wait(WAIT)

    def _attempt(self, run: Run, lock: RunLock) -> str:
        """Execute a run and store its result. Returns why it failed; empty if it did not."""
        place, reason, tries = self._places.get(), "", 0
        try:
            while tries < ATTEMPTS:
                while not self.stopping.is_set() and is_locked(self.commands.run_folder(run)):
                    self.stopping.wait(WAIT)  # a run outlives a worker that was killed; its end is waited for
                if self.stopping.is_set():
                    return ""
                self.watch.event(run, "begins")
                before = stored(self.folder, run)  # trained already; only figures are missing
                status, reason = (0, "") if before else self.commands.fit(run, place, lock)
                if status == WRONG and BUSY in reason:
                    continue  # a run of a worker that was killed was still starting, and was first
                if self._is_over(run, status, reason):
                    return ""
                figures = before.figures if before else {}
                if status == 0:
                    status, reason, evaluated = self.commands.evaluate(run, place, lock)
                    figures |= evaluated
                if status == 0 or self._has_diverged(run):
                    self._store(run, "finished" if status == 0 else "diverged", figures)
                    return ""
                tries += 1
        finally:
            self._places.put(place)
        self.watch.event(run, "failed")
        return f"{run.id} failed {ATTEMPTS} times: {reason or 'see'} ({self.commands.log(run)})"

    def _is_over(self, run: Run, status: int, reason: str) -> bool:
        """Whether a run that failed is not to be tried again: the study is stopping, or the settings are wrong."""
        if status == 0 or self._has_diverged(run):
            return False
        if status == WRONG:
            with self._guard:
                self.wrong = self.wrong or f"{run.id}: {reason}"
                self.stopping.set()
        if self.leave and status in STOPPED:
            self.stopping.set()  # the scheduler ends this job, and has sent a signal to all its processes
        return self.stopping.is_set()

    def _has_diverged(self, run: Run) -> bool:
        return (self.commands.run_folder(run) / DIVERGED).is_file()

    def _store(self, run: Run, status: Status, figures: dict[str, float]) -> None:
        """Store the result of a run, unless a worker that took the run over has."""
        if self.result(run) is None:
            store(self.folder, collected(self.commands.run_folder(run), run, self.wanted.of(run), status, figures))
        self.watch.event(run, status)


def _block_warnings() -> None:
    """Keep from runs the signals by which schedulers warn a job before it ends; this process then lets them save.

    The processes that this thread starts inherit what it blocks.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])


def _cpus() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
