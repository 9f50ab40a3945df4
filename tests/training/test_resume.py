from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.callbacks import Meter
from training.checkpoint import read, weights
from training.loggers.files import read_rows

Fit = Callable[..., Path]
CLOCKS = ("seconds", "tokens_per_second", "peak_memory_mib")


def figures(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in CLOCKS} for row in read_rows(folder / "metrics.jsonl")
    ]


def crash_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies after it has reported this step and before anything else."""
    report = Meter.after_step

    def dying(self: Meter, trainer: Any, module: Any, now: int) -> None:
        report(self, trainer, module, now)
        if now == step:
            raise MemoryError("crashed")

    monkeypatch.setattr(Meter, "after_step", dying)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("step", [2, 4, 5, 6, 7, 11])
def test_a_run_that_crashed_continues_exactly(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, step: int, accumulate: int
) -> None:
    steps = ["--trainer.max_steps", "12", "--trainer.val_check_interval", str(3 * accumulate), "--run.save_every", "1"]
    steps += ["--trainer.accumulate_grad_batches", str(accumulate)]
    whole = fit(*steps, name="whole")
    with monkeypatch.context() as patch:
        crash_after(step, patch)
        with pytest.raises(MemoryError):
            fit(*steps, name="broken")
    fit(
        "--ckpt_path",
        "last",
        "--trainer.enable_progress_bar",
        "false",
        "--run.wandb",
        "disabled",
        name="broken",
        base=False,
    )
    broken = whole.parent / "broken"
    assert figures(broken) == figures(whole)
    ours, theirs = (weights(read(folder / "checkpoints" / "last.ckpt")) for folder in (broken, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
