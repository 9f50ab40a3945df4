"""`blockformer` that sends itself a signal at the N-th of many places of a run.

`python -m tests.faults.dying N SIGNAL RANK fit ...`; no place has the number 0.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer

from blockformer.cli.main import main as command
from blockformer.training import lightning_cli
from blockformer.training.callbacks import Checkpoints, MetricsLogger
from blockformer.training.loggers import FileLogger
from blockformer.training.module import TrainingModule

# Before and after each of these; `os.fsync` is where a file is written and not yet renamed.
PLACES: list[tuple[Any, str]] = [
    (lightning_cli, "place_of_fit"),
    (lightning_cli, "save_settings"),
    (FileLogger, "log_metrics"),
    (MetricsLogger, "after_step"),
    (TrainingModule, "optimizer_step"),
    (TrainingModule, "validation_step"),
    (Checkpoints, "save_last"),
    (Trainer, "save_checkpoint"),
    (os, "fsync"),
]


def install(die: Callable[[int], None], replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Call ``die`` with the number of each place, from 1, when the run comes to it."""
    passed = 0

    def reach() -> None:
        nonlocal passed
        passed += 1
        die(passed)

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            reach()
            result = function(*arguments, **options)
            reach()
            return result

        return call

    for owner, name in PLACES:
        replace(owner, name, around(getattr(owner, name)))


def main() -> int:
    """Run the command, which dies where its first three arguments say."""
    number, signum, rank = (int(word) for word in sys.argv[1:4])
    if rank == int(os.environ.get("LOCAL_RANK", "0")):
        install(lambda passed: os.kill(os.getpid(), signal.Signals(signum)) if passed == number else None)
    return command(sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main())
