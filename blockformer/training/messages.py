"""Messages at the end of `fit`, `validate` and `test`."""

from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Trainer

from blockformer.training.callbacks.progress import summary
from blockformer.training.callbacks.spikes import Spikes
from blockformer.training.fit_loop import FitLoop
from blockformer.training.json_lines import read_rows
from blockformer.training.loggers import SafeWandbLogger
from registry.text import printable


def print_end_of_fit(trainer: Trainer, folder: Path) -> None:
    """Print where the results are, and the figures of the last validation.

    Args:
        trainer: after the fit.
        folder: the run's.
    """
    step, skipped = trainer.global_step, cast("FitLoop", trainer.fit_loop).skipped
    rows = [row for row in read_rows(folder / "metrics.jsonl") if "val/loss" in row]
    of = "" if not rows or rows[-1]["step"] == step else f" of step {rows[-1]['step']}"
    newest = f"; validation{of}: {summary(rows[-1], 'val')}" if rows else ""
    done = f"nothing to do: {folder} has made its {step} steps" if skipped else f"done: {folder}"
    print(printable(done) + newest)
    for spikes in (callback for callback in trainer.callbacks if isinstance(callback, Spikes)):  # pyright: ignore[reportAttributeAccessIssue]
        if counts := spikes.counts():
            print(f"spikes: {', '.join(f'{count} of {figure}' for figure, count in counts.items())}")
    for logger in trainer.loggers:
        if isinstance(logger, SafeWandbLogger) and logger.place:
            print(printable(logger.place))


def print_evaluation(verb: str, checkpoint: str, figures: dict[str, Any]) -> None:
    """Print the figures of `validate` or `test`."""
    stage = "val" if verb == "validate" else verb
    perplexity = figures.get(f"{stage}/perplexity")
    more = "" if perplexity is None else f"  perplexity {perplexity:.3f}"
    print(f"{verb} {printable(checkpoint)}: {summary(figures, stage)}{more}")
