"""The commands of a study's runs: `blockformer fit` and evaluations, each in a process of its own."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from blockformer.files import open_to_append, write_text
from blockformer.studies import processes
from blockformer.studies.run import Run
from blockformer.studies.run_labels import run_settings
from blockformer.studies.run_result import RequestedFigures
from blockformer.training.run_lock import RunLock
from registry.text import printable

RUNS = "runs"
STOPPED = (130, 143, 129)  # exit status of a run that a signal has stopped
TAIL = 2**16  # bytes of a log in which its last line is looked for
STOP_WAIT = 60.0  # seconds for a run to save after it was asked to stop


class Commands:
    """Executes the commands of runs.

    Args:
        folder: the study's.
        name: the study's label; W&B's group.
        wanted: what the study wants to know of its runs.
        options: further options of `blockformer fit`.
        threads: of a run, unless OMP_NUM_THREADS is set.

    Attributes:
        stopping: set when no more commands are to begin.
    """

    def __init__(
        self, folder: Path, name: str, wanted: RequestedFigures, options: Sequence[str], *, threads: int
    ) -> None:
        self.folder, self.name, self.wanted, self.options, self.threads = folder, name, wanted, list(options), threads
        self.stopping = threading.Event()
        self._running: set[processes.Running] = set()
        self._guard = threading.Lock()

    def fit(self, run: Run, place: str | None, lock: RunLock) -> tuple[int, str]:
        """Begin or continue a run. Returns the exit status and the last line of output.

        Args:
            run: the run.
            place: the GPU, as a value of CUDA_VISIBLE_DEVICES; None: what this process sees.
            lock: the claim, which the process inherits.
        """
        settings = {**run.settings, "run": run_settings(run, self.name)}
        config = self.folder / "configs" / f"{run.id}.yaml"
        write_text(config, json.dumps(settings, indent=1))  # JSON is YAML
        where = ["--run.root", str(self.folder / RUNS), "--run.name", run.id, "--run.variant", run.variant]
        arguments = ["fit", "--config", str(config), *where, "--ckpt_path", "last", *self.options]
        return self.execute(run, arguments, place, lock)

    def evaluate(self, run: Run, place: str | None, lock: RunLock) -> tuple[int, str, dict[str, float]]:
        """Exit status, last line and figures of all evaluations of a finished run."""
        folder, figures = self.run_folder(run), dict[str, float]()
        checkpoint = ["--ckpt_path", str(folder / "checkpoints/last.ckpt")]
        for stage, suffix, (verb, *settings) in self.wanted.evaluations(run):
            status, reason = self.execute(run, [verb, *checkpoint, *settings], place, lock)
            if status:
                return status, reason, {}
            figures |= self.wanted.evaluated(folder, stage, suffix)
        return 0, "", figures

    def execute(self, run: Run, arguments: list[str], place: str | None, lock: RunLock) -> tuple[int, str]:
        """The exit status of a `blockformer` command, and its last line of output."""
        log = self.log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_NUM_THREADS": str(self.threads), **os.environ}
        if place is not None:
            environment["CUDA_VISIBLE_DEVICES"] = place
        if self.stopping.is_set():
            return STOPPED[0], ""
        forked = place is None and _is_on_cpu(run)
        with open_to_append(log) as stream:
            try:
                process = processes.begin(arguments, environment, stream, lock.inheritable, forked=forked)
            except OSError as error:
                return 1, f"no process could be started: {error}"
            with self._guard:
                stopping = self.stopping.is_set()
                self._running.add(process)
            if stopping:
                process.kill()
            try:
                status = process.wait()
            finally:
                self._running.discard(process)
        return STOPPED[0] if stopping else status, _last_line(log)

    def log(self, run: Run) -> Path:
        """What a run prints."""
        return self.folder / "logs" / f"{run.id}.txt"

    def stop(self, before: Callable[[], None]) -> None:
        """Ask the runs in progress to save and end, and wait for them.

        Args:
            before: called first, if any run is in progress.
        """
        with self._guard:
            self.stopping.set()
            running = list(self._running)
        if running:
            before()
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_WAIT
        try:
            for process in running:
                process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self, line: str = "") -> None:
        """End the runs in progress at once; they continue from their last checkpoint."""
        for process in list(self._running):
            process.kill()

    def run_folder(self, run: Run) -> Path:
        """Where a run trains."""
        return self.folder / RUNS / run.id


def _last_line(log: Path) -> str:
    """The last line of output that is not empty."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL))
        lines = stream.read().decode(errors="replace").split("\n")
    return next((printable(line) for line in reversed(lines) if line.strip()), "")


def _is_on_cpu(run: Run) -> bool:
    """Whether a run trains on a CPU: because it says so, or because there is nothing else."""
    accelerator = run.settings.get("trainer", {}).get("accelerator", "auto")
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
