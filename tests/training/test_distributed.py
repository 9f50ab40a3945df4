from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoint import read, weights
from training.loggers.files import read_rows

TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


@pytest.fixture
def masked(text: Path, runs: Path) -> list[str]:
    """An encoder whose ranks, and whose parts of a step, score different numbers of targets."""
    return [
        *("--recipe", "tiny_encoder", "--data.dataset", "text", f"--data.files={text}", "--data.tokenizer", "bytes"),
        *("--data.length", "32", "--data.batch_size", "8", "--data.mask_rate", "0.1", "--trainer.accelerator", "cpu"),
        *("--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "4", "--trainer.log_every_n_steps", "1"),
        *("--run.wandb", "disabled", "--run.root", str(runs), "--optimizer.warmup_steps", "0"),
    ]


def test_two_processes_train_like_one(
    fit: Callable[..., Path], start: Callable[..., Any], masked: list[str], runs: Path
) -> None:
    process = start("fit", *masked, "--run.name", "two", *TWO)
    one = fit(name="one", given=[*masked, "--trainer.enable_progress_bar", "false"])
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    for ours, theirs in zip(read_rows(runs / "two" / "metrics.jsonl"), read_rows(one / "metrics.jsonl"), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds", "tokens_per_second", "peak_memory_mib"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key
    both = [weights(read(runs / name / "checkpoints" / "last.ckpt")) for name in ("two", "one")]
    for name, tensor in both[0].items():
        torch.testing.assert_close(tensor, both[1][name], rtol=1e-4, atol=1e-6)
    states = read(runs / "two" / "checkpoints" / "last.ckpt")["random_states"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
