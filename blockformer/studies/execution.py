"""Run what a study plans: each run in a process of its own, claimed by a lock, repeated until it has a result."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.studies.plan import Purpose, Run
from blockformer.studies.run_labels import run_settings
from blockformer.training.callbacks.non_finite import DIVERGED
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.run_lock import RunLock

RESULTS, RUNS, CLAIMS = "results", "runs", "claims"
ATTEMPTS = 3  # of a run that fails for another reason than its loss
WRONG = 2  # exit status of a command that refuses what it was given
WAIT = 2.0  # seconds until claimed runs of other workers are looked at again
STOP_WAIT = 60.0  # seconds for a run to save after it was asked to stop
Status = Literal["finished", "diverged"]


@dataclass(frozen=True)
class Result:
    """The outcome of one run.

    Attributes:
        id, variant, seed, learning_rate, purpose: of the run.
        status: whether it finished or its loss became infinite or NaN.
        figure: the study's figure after the last step; None: it diverged.
        figures: all figures of the last validation and of the test.
        curve: validations: step, tokens, seconds and the figures.
        seconds: of training, without start and preparation.
    """

    id: str
    variant: str
    seed: int
    learning_rate: float | None
    purpose: Purpose
    status: Status
    figure: float | None
    figures: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float | None = None


class RunFailedError(UserError):
    """A run failed for another reason than its loss, each time it was tried."""


class Executor:
    """Executes runs in a study's folder, several at a time; other processes may work on the same folder.

    Args:
        folder: the study's: `runs/`, `results/`, `claims/`.
        name: the study's label; W&B's group.
        figure: such as `val/loss` or `test/accuracy`.
        workers: runs at a time.
        options: further options of `blockformer fit`, such as `--run.wandb offline`.
        watch: called when a run begins, ends or is taken over, with the run and a word.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        figure: str,
        *,
        workers: int = 1,
        options: Sequence[str] = (),
        watch: Callable[[Run, str], None] = lambda run, word: None,
    ) -> None:
        self.folder, self.name, self.figure, self.workers = folder, name, figure, workers
        self.options, self.watch = list(options), watch
        self.stopping = threading.Event()
        self.wrong = ""
        self._processes: set[subprocess.Popen[bytes]] = set()

    def result(self, run: Run) -> Result | None:
        """The stored result of a run; None: it has none yet."""
        path = self.folder / RESULTS / f"{run.id}.json"
        try:
            return Result(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: is damaged; remove it, and the run is repeated") from error

    def execute(self, runs: Sequence[Run]) -> list[Result]:
        """Run everything that has no result yet, and wait for what other workers have claimed.

        Raises:
            UserError: a run refused its settings; what is in progress is finished, and nothing else is begun.
            RunFailedError: runs failed; the others are finished first.
            KeyboardInterrupt: the study was stopped; runs in progress have saved and will be continued.
        """
        failures: list[str] = []
        pending = [run for run in runs if self.result(run) is None]
        with ThreadPoolExecutor(self.workers) as pool:
            futures = [pool.submit(self._finish, run, failures) for run in pending]
            try:
                for future in futures:
                    while not future.done():
                        time.sleep(0.05)
                    future.result()
            except BaseException:
                self.stop()
                for future in futures:
                    future.cancel()
                raise
        if self.wrong:
            raise UserError(self.wrong)
        if failures:
            raise RunFailedError("\n".join(failures))
        found = [self.result(run) for run in runs]
        return [result for result in found if result is not None]

    def stop(self) -> None:
        """Ask the runs in progress to save and end, and wait for them."""
        self.stopping.set()
        for process in list(self._processes):
            process.terminate()
        deadline = time.monotonic() + STOP_WAIT
        for process in list(self._processes):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def _finish(self, run: Run, failures: list[str]) -> None:
        """Execute a run unless another worker does; then wait until that one has finished or died."""
        while not self.stopping.is_set() and self.result(run) is None:
            with self._claim(run) as mine:
                if mine:
                    if self.result(run) is None and (failure := self._attempt(run)):
                        failures.append(failure)
                        return
                    continue
            self.stopping.wait(WAIT)

    @contextmanager
    def _claim(self, run: Run) -> Iterator[bool]:
        """Whether this process may execute the run: no other process on any machine is at it."""
        try:
            lock = RunLock(self.folder / CLAIMS / run.id)
        except UserError:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _attempt(self, run: Run) -> str:
        """Execute a run and store its result. Returns why it failed; empty if it did not."""
        reason = ""
        for _ in range(ATTEMPTS):
            while not self.stopping.is_set() and _is_locked(self._run_folder(run)):
                self.stopping.wait(WAIT)  # a run outlives a worker that was killed; its end is waited for
            if self.stopping.is_set():
                return ""
            self.watch(run, "begins")
            status, reason = self._fit(run)
            diverged = status != 0 and (self._run_folder(run) / DIVERGED).is_file()
            if self.stopping.is_set() and status and not diverged:
                return ""
            if status == WRONG:
                self.wrong = self.wrong or f"{run.id}: {reason}"
                self.stopping.set()
                return ""
            if status == 0 and self.figure.startswith("test/") and run.purpose == "answer":
                status, reason = self._command(
                    run, ["test", "--ckpt_path", str(self._run_folder(run) / "checkpoints/last.ckpt")]
                )
            if status == 0 or diverged:
                result = self._collected(run, "diverged" if diverged else "finished")
                text = json.dumps(asdict(result), indent=1, allow_nan=False)
                write_text(self.folder / RESULTS / f"{run.id}.json", text)
                self.watch(run, result.status)
                return ""
        self.watch(run, "failed")
        return f"{run.id} failed {ATTEMPTS} times: {reason or 'see'} ({self._log(run)})"

    def _fit(self, run: Run) -> tuple[int, str]:
        settings = {key: value for key, value in run.settings.items() if key != "figure"}
        config = self.folder / "configs" / f"{run.id}.yaml"
        settings["run"] = run_settings(run, self.name)
        write_text(config, json.dumps(settings, indent=1))  # JSON is YAML
        place = ["--run.root", str(self.folder / RUNS), "--run.name", run.id, "--run.variant", run.variant]
        return self._command(run, ["fit", "--config", str(config), *place, "--ckpt_path", "last", *self.options])

    def _command(self, run: Run, arguments: list[str]) -> tuple[int, str]:
        """The exit status of a `blockformer` command, and its last line of output."""
        log = self._log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        command = [sys.executable, "-m", "blockformer.cli.main", *arguments]
        with log.open("ab") as stream:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, start_new_session=True
            )
            self._processes.add(process)
            try:
                status = process.wait()
            finally:
                self._processes.discard(process)
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        return status, next((line for line in reversed(lines) if line.strip()), "")

    def _log(self, run: Run) -> Path:
        return self.folder / "logs" / f"{run.id}.txt"

    def _run_folder(self, run: Run) -> Path:
        return self.folder / RUNS / run.id

    def _collected(self, run: Run, status: Status) -> Result:
        rows = read_rows(self._run_folder(run) / "metrics.jsonl")
        validations = [row for row in rows if "val/loss" in row]
        wanted = ("step", "tokens", "seconds")
        curve = [
            {key: value for key, value in row.items() if (key in wanted or key.startswith("val/")) and _finite(value)}
            for row in validations
        ]
        figures = {key: value for key, value in (curve[-1] if curve else {}).items() if key.startswith("val/")}
        if status == "finished" and self.figure.startswith("test/") and run.purpose == "answer":
            evaluations = read_rows(self._run_folder(run) / "evaluations.jsonl")
            figures |= {key: value for key, value in evaluations[-1].items() if key.startswith("test/")}
        wanted_figure = self.figure if run.purpose == "answer" else self.figure.replace("test/", "val/")
        if status == "finished" and wanted_figure not in figures:
            known = ", ".join(sorted(figures)) or "none: nothing was validated"
            raise UserError(f"{run.id} has no figure {wanted_figure}; it has {known}")
        figure = figures.get(wanted_figure) if status == "finished" else None
        seconds = validations[-1].get("seconds") if validations else None
        return Result(
            run.id, run.variant, run.seed, run.learning_rate, run.purpose, status, figure, figures, curve, seconds
        )


def _is_locked(folder: Path) -> bool:
    """Whether a process trains in this folder."""
    try:
        RunLock(folder).release()
    except UserError:
        return True
    return False


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
