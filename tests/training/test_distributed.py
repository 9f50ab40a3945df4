import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.waiting import wait_for
from training.checkpoint import read, read_metadata, weights
from training.loggers.files import read_rows

TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory, runs: Path) -> list[str]:
    """Pairs with targets of different lengths, so that ranks and parts of a step score different numbers."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("".join(f"{'ab' * (1 + n % 5)}\t{'xyz' * (1 + n * n % 7)}\n" for n in range(200)))
    still = (
        f"--recipe.{place}.dropout=0" for place in ("embedding", "encoder.layer.residual", "decoder.layer.residual")
    )
    return [
        *("--recipe", "tiny_encoder_decoder", *still, "--data.dataset", "pairs", f"--data.files={path}"),
        *("--data.tokenizer", "bytes", "--data.length", "32", "--data.batch_size", "8", "--trainer.accelerator", "cpu"),
        *("--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "4", "--trainer.log_every_n_steps", "1"),
        *("--run.wandb", "disabled", "--run.root", str(runs), "--optimizer.warmup_steps", "0"),
    ]


def test_two_processes_train_like_one(
    fit: Callable[..., Path], start: Callable[..., Any], uneven: list[str], runs: Path
) -> None:
    process = start("fit", *uneven, "--run.name", "two", *TWO)
    one = fit(name="one", given=[*uneven, "--trainer.enable_progress_bar", "false"])
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


@pytest.mark.slow
def test_a_signal_to_any_rank_stops_all_after_a_checkpoint(
    start: Callable[..., Any], uneven: list[str], runs: Path
) -> None:
    long = [*uneven, "--trainer.max_steps", "100000", "--run.name", "signalled", *TWO]
    process = start("fit", *long)
    rows = runs / "signalled" / "metrics.jsonl"
    try:
        wait_for(lambda: len(read_rows(rows)) > 5, process)
        (second,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(second), signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()  # the other process ends with it, as it loses its peer
    assert process.returncode == 143, output
    assert "stopped by SIGTERM after step" in output
    step = read_metadata(runs / "signalled" / "checkpoints" / "last.ckpt")["step"]
    assert read_rows(rows)[-1]["step"] == step
