"""Engines that call functions in jobs of SLURM or tasks of Ray."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

from blockformer.errors import UserError

ENGINES = ("slurm", "ray")
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
        folder: in a new folder of which scripts, logs and pickled results lie; all machines must see it.
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
            place = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{token_hex(4)}"  # new: results are read with pickle
            self._executor = submitit.AutoExecutor(folder=place, cluster=rest.pop("cluster", "slurm"))
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
