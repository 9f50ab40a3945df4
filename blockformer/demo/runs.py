"""Start runs with `blockformer fit`, and read their results."""

import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from blockformer import signals
from blockformer.errors import UserError

if TYPE_CHECKING:
    from blockformer.data.module import TextData
    from blockformer.training.loggers.file_logger import Row

CONFIGS = Path(__file__).parent
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Args:
        folder: where it lies.
    """

    folder: Path

    @cached_property
    def rows(self) -> "list[Row]":
        """Its reported figures, in order."""
        from blockformer.training.loggers.file_logger import read_rows  # loads torch: runs are started without it

        return read_rows(self.folder / "metrics.jsonl")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What it is: the recipe, sizes, data and settings."""
        return json.loads((self.folder / "facts.json").read_text(encoding="utf-8"))

    @property
    def validation(self) -> "Row":
        """The figures of its last validation."""
        return [row for row in self.rows if "val/loss" in row][-1]

    @property
    def tokens_per_second(self) -> float:
        """The median over the run."""
        return statistics.median(row["tokens_per_second"] for row in self.rows if "tokens_per_second" in row)

    @property
    def peak_memory(self) -> float:
        """The most memory that it took, in MiB."""
        return max(row["peak_memory_mib"] for row in self.rows if "peak_memory_mib" in row)

    def data(self) -> "TextData":
        """The same data again, from the cache."""
        from blockformer.data.module import TextData
        from blockformer.training.objectives import ObjectiveSettings

        config = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
        data = TextData(**config["data"] | {"seed": self.facts["data"]["seed"]})
        data.configure(objective=ObjectiveSettings(**self.facts["objective"]).objective)
        return data


def fit(recipe: str, config: str, further: Sequence[str]) -> Run:
    """Run `blockformer fit` in a process of its own, so that its peak of memory is its own, too.

    Args:
        recipe: name of a built-in recipe.
        config: name of a configuration beside this file.
        further: more arguments.

    Raises:
        UserError: they name the run's folder, or the run failed; it has said why.
    """
    name, command = _command(recipe, config, further)
    process = subprocess.Popen(command)
    try:
        status = process.wait()
    except signals.Stopped as stopped:
        process.send_signal(stopped.signum)
        process.wait()
        raise
    return _ended(name, status)


def fit_together(config: str, wanted: Sequence[tuple[str, Sequence[str]]]) -> Iterator[tuple[int, Run]]:
    """Like :func:`fit` of several recipes, one at a time on each core; a line of output begins with its recipe.

    Args:
        config: name of a configuration beside this file.
        wanted: recipes, each with its further arguments.

    Yields:
        The place in ``wanted`` and the run, as soon as one has ended.

    Raises:
        UserError: they name a run's folder, or a run failed.
    """
    commands = [_command(recipe, config, further) for recipe, further in wanted]
    processes: list[subprocess.Popen[str]] = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def status_of(place: int) -> int:
        process = subprocess.Popen(
            commands[place][1], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        processes.append(process)
        for line in process.stdout or ():
            console.print(f"{wanted[place][0]}: {line.rstrip()}", markup=False)
        return process.wait()

    with ThreadPoolExecutor(cores) as pool:
        running = {pool.submit(status_of, place): place for place in range(len(wanted))}
        try:
            for one in as_completed(running):
                yield running[one], _ended(commands[running[one]][0], one.result())
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.send_signal(error.signum if isinstance(error, signals.Stopped) else signal.SIGTERM)
            raise


def _command(recipe: str, config: str, further: Sequence[str]) -> tuple[str, list[str]]:
    """The name of a new run and the command that trains it, which is also printed."""
    if any(argument.startswith(("--run.name", "--run.root")) for argument in further):
        raise UserError("a demonstration names its own runs; for others use `blockformer fit`")
    name = f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    shown = ["fit", "--recipe", recipe, "--config", str(CONFIGS / config), "--run.name", name, *further]
    console.print(f"\n[bold]blockformer {shlex.join(shown)}[/bold]")
    return name, [sys.executable, "-m", "blockformer.cli.main", *shown]


def _ended(name: str, status: int) -> Run:
    if status:
        raise UserError(f"the run ended with status {status}")
    return Run(Path("runs") / name)


def prepare(config: str) -> None:
    """Read and tokenise the text of a configuration, so that no run's time or memory counts it."""
    from blockformer.data.module import TextData

    settings = yaml.safe_load((CONFIGS / config).read_text(encoding="utf-8"))["data"]
    with console.status(f"reading and tokenising {settings['dataset']}"):
        TextData(**settings).prepare_data()


def say_where(*runs: Run) -> None:
    """Print where runs lie and how to look at them."""
    console.print("\n[bold]The runs[/bold], each with its recipe, configuration, checkpoints and metrics.jsonl:")
    for run in runs:
        console.print(f"  {run.folder}")
    if offline := [path for run in runs for path in sorted(run.folder.glob("wandb/offline-run-*"))]:
        console.print("Look at their curves in the terminal, or send them to W&B:")
        console.print(*(f"  wandb leet {path}" for path in offline), sep="\n")
        console.print(f"  wandb sync {' '.join(map(str, offline))}")
