"""Execute a study's runs in the jobs of an engine, by the same workers, which claim runs and store results."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from blockformer.errors import UserError
from blockformer.studies.claims import CLAIMS, is_claimed, is_locked
from blockformer.studies.commands import STOP_WAIT
from blockformer.studies.engines import Engine, Job
from blockformer.studies.execution import ATTEMPTS, WAIT, Executor, InterruptedStudy, RunFailedError
from blockformer.studies.run import Run

T = TypeVar("T")
POLL = 0.5  # seconds


@dataclass
class WorkerResult:
    """How a worker has ended.

    Attributes:
        wrong: why runs refuse their settings; empty: they do not.
        failures: runs that failed, and why.
    """

    wrong: str = ""
    failures: list[str] = field(default_factory=list)


def work(settings: Mapping[str, Any], runs: Sequence[Run], place: str) -> WorkerResult:
    """Execute the runs that no other worker has claimed. A job of an engine calls this.

    Args:
        settings: arguments of :class:`Executor`.
        runs: the runs.
        place: the working folder, from which paths in settings start.
    """
    os.chdir(place)
    try:
        Executor(**settings, leave=True).execute(runs)
    except RunFailedError as error:
        return WorkerResult(failures=str(error).split("\n"))
    except UserError as error:
        return WorkerResult(wrong=str(error))
    except InterruptedStudy:
        pass  # the launcher sees which runs have no result
    return WorkerResult()


class Launcher(Executor):
    """Executes runs by workers in an engine's jobs. Workers that end early are started again.

    Args:
        engine: starts the jobs.
        folder: the study's; all machines must see it.
        settings: as for :class:`Executor`; `workers` is the number of jobs.
    """

    def __init__(self, engine: Engine, folder: Path, name: str, figure: str, **settings: Any) -> None:
        super().__init__(folder.absolute(), name, figure, **settings)
        self._engine = engine
        self._announced: dict[str, str] = {}

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in a job."""
        (job,) = self._engine.submit([function])
        try:
            while not job.done():
                time.sleep(POLL)
        except BaseException:
            job.cancel()
            raise
        try:
            return job.result()
        except Exception as error:
            raise RuntimeError(_last_line(error)) from error

    def _executed(self, pending: Sequence[Run]) -> list[str]:
        idle, reason = 0, ""
        while pending and not self.stopping.is_set():
            free = [run for run in pending if not is_locked(self.folder / CLAIMS / run.id)]
            if not free:
                self.stopping.wait(WAIT)
            else:
                before = self._progress(pending)
                results, reason = self._launched(free)
                self.wrong = next((one.wrong for one in results if one.wrong), "")
                failures = [line for one in results for line in one.failures]
                if self.wrong or failures:
                    return list(dict.fromkeys(failures))
                idle = 0 if self._progress(pending) != before else idle + 1
            self._observe(pending)
            pending = [run for run in pending if self.result(run) is None]
            if idle == ATTEMPTS and pending:
                return [f"{len(pending)} runs have no result after {idle} launches without progress: {reason}"]
        return []

    def _launched(self, runs: Sequence[Run]) -> tuple[list[WorkerResult], str]:
        """Start workers and wait for them. Returns their results, and why one gave none."""
        wanted = {"figure": self.wanted.figure, "lengths": self.wanted.lengths}
        settings = {"folder": self.folder, "name": self.name, **wanted, "options": self.commands.options}
        call = partial(work, settings, list(runs), str(Path.cwd()))
        jobs = self._engine.submit([call] * min(self.workers, len(runs)))
        try:
            while not self.signum and not all(job.done() for job in jobs):
                self._observe(runs)
                time.sleep(POLL)
        except BaseException:
            self._cancel(jobs)
            raise
        if self.signum:
            self._cancel(jobs)
            return [], ""
        results, reason = list[WorkerResult](), ""
        for job in jobs:
            try:
                results.append(job.result())
            except Exception as error:  # of the engine, of any kind: the job was killed, or could not start
                reason = _last_line(error)
        return results, reason

    def _cancel(self, jobs: Sequence[Job]) -> None:
        """Ask the workers to end, and wait until their runs have saved."""
        self.watch.stopping()
        for job in jobs:
            job.cancel()
        deadline = time.monotonic() + STOP_WAIT
        while time.monotonic() < deadline and not all(job.done() for job in jobs):
            time.sleep(POLL)

    def _observe(self, runs: Sequence[Run]) -> None:
        """Report the runs that workers have begun or finished, as seen in the study's folder."""
        for run in runs:
            result = self.result(run)
            word = result.status if result else "begins" if is_claimed(self.folder / CLAIMS / run.id) else ""
            if word and self._announced.get(run.id) != word:
                self._announced[run.id] = word
                self.watch.event(run, word)

    def _progress(self, runs: Sequence[Run]) -> list[object]:
        """Sizes of metrics and which results exist: they change when a run makes steps or ends."""
        metrics = [self.commands.run_folder(run) / "metrics.jsonl" for run in runs]
        return [
            *(path.stat().st_size for path in metrics if path.exists()),
            *(self.result(run) is None for run in runs),
        ]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
