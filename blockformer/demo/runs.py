"""Start runs with `blockformer fit`, and read their results."""

import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from blockformer import signals
from blockformer.data.module import TextData
from blockformer.errors import UserError
from blockformer.training.loggers.file_logger import Row, read_rows
from blockformer.training.objectives import ObjectiveSettings

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
    def rows(self) -> list[Row]:
        """Its reported figures, in order."""
        return read_rows(self.folder / "metrics.jsonl")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What it is: the recipe, sizes, data and settings."""
        return json.loads((self.folder / "facts.json").read_text(encoding="utf-8"))

    @property
    def validation(self) -> Row:
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

    def data(self) -> TextData:
        """The same data again, from the cache."""
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
    if any(argument.startswith(("--run.name", "--run.root")) for argument in further):
        raise UserError("a demonstration names its own runs; for others use `blockformer fit`")
    name = f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    shown = ["fit", "--recipe", recipe, "--config", str(CONFIGS / config), "--run.name", name, *further]
    console.print(f"\n[bold]blockformer {shlex.join(shown)}[/bold]")
    process = subprocess.Popen([sys.executable, "-m", "blockformer.cli.main", *shown])
    try:
        status = process.wait()
    except signals.Stopped as stopped:
        process.send_signal(stopped.signum)
        process.wait()
        raise
    if status:
        raise UserError(f"the run ended with status {status}")
    return Run(Path("runs") / name)


def prepare(config: str) -> None:
    """Read and tokenise the text of a configuration, so that no run's time or memory counts it."""
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
