"""Execute a study's runs in jobs of SLURM or Ray, by the same workers, which claim runs and store results."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from blockformer.errors import UserError
from blockformer.studies.execution import (
    ATTEMPTS,
    CLAIMS,
    STOP_WAIT,
    WAIT,
    Executor,
    InterruptedStudy,
    RunFailedError,
    is_locked,
)
from blockformer.studies.plan import Run
from blockformer.training.run_lock import LOCK

T = TypeVar("T")
ENGINES = ("slurm", "ray")
POLL = 0.5  # seconds
NUMBERS = {"time": "timeout_min", "gpus": "gpus_per_node", "cpus": "cpus_per_task", "memory": "mem_gb"}


class Job(Protocol):
    """A call that is executed elsewhere."""

    def done(self) -> bool:
        """Whether it has ended, however."""
        ...

    def result(self) -> Any:
        """What the call returned; raises an exception if it did not."""
        ...

    def cancel(self) -> Any:
        """Ask it to end."""
        ...


class Engine(Protocol):
    """Something that executes calls in processes of their own, on this or other machines."""

    def submit(self, calls: Sequence[Callable[[], Any]]) -> Sequence[Job]:
        """Begin all calls."""
        ...

    def close(self) -> None:
        """End what the engine has started."""
        ...


def make_engine(name: str, folder: Path, options: Mapping[str, str]) -> Engine:
    """The engine of that name.

    Args:
        name: one of :data:`ENGINES`.
        folder: the study's; SLURM's scripts and logs lie under it.
        options: of the engine, by name.

    Raises:
        UserError: its package is not installed, or an option is wrong.
    """
    try:
        return Slurm(folder / "slurm", options) if name == "slurm" else Ray(options)
    except ImportError as error:
        raise UserError(f"--engine {name}: needs a package: pip install 'blockformer[{name}]' ({error})") from error


class Slurm:
    """Jobs of SLURM, submitted as an array by submitit.

    Args:
        folder: for scripts, logs and pickled results; all machines must see it.
        options: `time` in minutes, `partition`, `cpus`, `gpus` and `memory` in GB of a job; `cluster=local` runs the
            jobs on this machine. Others are options of sbatch, such as `account`.
    """

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        import submitit

        rest = dict(options)
        if "time" not in rest:
            raise UserError("--engine slurm: needs --engine-option time=MINUTES: how long a job may take")
        settings: dict[str, Any] = {to: number(key, rest.pop(key)) for key, to in NUMBERS.items() if key in rest}
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=rest.pop("cluster", "slurm"))
            if "partition" in rest:
                settings["slurm_partition"] = rest.pop("partition")
            self._executor.update_parameters(**settings, name="blockformer-compare", slurm_additional_parameters=rest)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"--engine slurm: {str(error).splitlines()[0]}") from error

    def submit(self, calls: Sequence[Callable[[], Any]]) -> Sequence[Job]:
        with self._executor.batch():
            jobs = [self._executor.submit(call) for call in calls]
        return [_SlurmJob(job) for job in jobs]  # made when the array has been submitted

    def close(self) -> None:
        """Nothing to end: jobs have ended, or were cancelled."""


@dataclass
class _SlurmJob:
    job: Any

    def done(self) -> bool:
        return self.job.done()

    def result(self) -> Any:
        return self.job.result()

    def cancel(self) -> None:
        local = getattr(self.job, "_process", None)
        if local is None:
            self.job.cancel(check=False)
        else:
            local.terminate()  # submitit would send SIGINT, which its own process answers with a traceback


class Ray:
    """Tasks of a Ray cluster: that of `address` or of RAY_ADDRESS, else one on this machine.

    Args:
        options: `address`, and `cpus` and `gpus` of a task.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        import ray

        if unknown := set(options) - {"address", "cpus", "gpus"}:
            raise UserError(f"--engine ray: there is no option {min(unknown)!r}; known: address, cpus, gpus")
        self._ray, self._needs = ray, {f"num_{key}": number(key, options.get(key, "0")) for key in ("cpus", "gpus")}
        self._needs["num_cpus"] = self._needs["num_cpus"] or 1
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(address=options.get("address"), log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                raise UserError(f"--engine ray: {str(error).splitlines()[0]}") from error

    def submit(self, calls: Sequence[Callable[[], Any]]) -> Sequence[Job]:
        def execute(call: Callable[[], Any]) -> Any:
            return call()

        task = self._ray.remote(execute).options(**self._needs, max_retries=0)
        return [_RayJob(self._ray, task.remote(call)) for call in calls]

    def close(self) -> None:
        """End the cluster, if it was started for this."""
        if self._ours:
            self._ray.shutdown()


@dataclass
class _RayJob:
    ray: Any
    reference: Any

    def done(self) -> bool:
        return bool(self.ray.wait([self.reference], timeout=0)[0])

    def result(self) -> Any:
        return self.ray.get(self.reference)

    def cancel(self) -> None:
        self.ray.cancel(self.reference)


@dataclass
class Report:
    """What a worker says when it ends.

    Attributes:
        wrong: why runs refuse their settings; empty: they do not.
        failures: runs that failed, and why.
    """

    wrong: str = ""
    failures: list[str] = field(default_factory=list)


def work(settings: Mapping[str, Any], runs: Sequence[Run], place: str) -> Report:
    """Execute those of the runs that nobody else has claimed, in a job of an engine.

    Args:
        settings: arguments of :class:`Executor`.
        runs: the runs.
        place: the working folder, from which paths in settings start.
    """
    os.chdir(place)
    try:
        Executor(**settings, leave=True).execute(runs)
    except RunFailedError as error:
        return Report(failures=str(error).split("\n"))
    except UserError as error:
        return Report(wrong=str(error))
    except InterruptedStudy:
        pass  # the launcher sees which runs have no result
    return Report()


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
                reports, reason = self._launched(free)
                self.wrong = next((report.wrong for report in reports if report.wrong), "")
                failures = [line for report in reports for line in report.failures]
                if self.wrong or failures:
                    return list(dict.fromkeys(failures))
                idle = 0 if self._progress(pending) != before else idle + 1
            self._observe(pending)
            pending = [run for run in pending if self.result(run) is None]
            if idle == ATTEMPTS and pending:
                return [f"{len(pending)} runs have no result after {idle} launches that did nothing: {reason}"]
        return []

    def _launched(self, runs: Sequence[Run]) -> tuple[list[Report], str]:
        """Start workers and wait for them. Returns their reports, and why one gave none."""
        wanted = {"figure": self.wanted.figure, "lengths": self.wanted.lengths}
        settings = {"folder": self.folder, "name": self.name, **wanted, "options": self.options}
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
        reports, reason = list[Report](), ""
        for job in jobs:
            try:
                reports.append(job.result())
            except Exception as error:  # of the engine, of any kind: the job was killed, or could not start
                reason = _last_line(error)
        return reports, reason

    def _cancel(self, jobs: Sequence[Job]) -> None:
        """Ask the workers to end, and wait until their runs have saved."""
        self.watch.stopping()
        for job in jobs:
            job.cancel()
        deadline = time.monotonic() + STOP_WAIT
        while time.monotonic() < deadline and not all(job.done() for job in jobs):
            time.sleep(POLL)

    def _observe(self, runs: Sequence[Run]) -> None:
        """Tell what workers have begun and finished, from the study's folder."""
        for run in runs:
            result = self.result(run)
            word = result.status if result else "begins" if _is_claimed(self.folder / CLAIMS / run.id) else ""
            if word and self._announced.get(run.id) != word:
                self._announced[run.id] = word
                self.watch.event(run, word)

    def _progress(self, runs: Sequence[Run]) -> list[object]:
        """Changes when a run makes steps or has a result."""
        metrics = [self._run_folder(run) / "metrics.jsonl" for run in runs]
        return [
            *(path.stat().st_size for path in metrics if path.exists()),
            *(self.result(run) is None for run in runs),
        ]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def _is_claimed(folder: Path) -> bool:
    try:
        return (folder / LOCK).stat().st_size > 0
    except OSError:
        return False


def number(key: str, text: str) -> float:
    """The number that an option gives.

    Raises:
        UserError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"--engine-option {key}={text}: must be a number") from None
    if not 0 <= value < 1e9:
        raise UserError(f"--engine-option {key}={text}: must be a number from 0 to 1e9")
    return int(value) if value.is_integer() else value
