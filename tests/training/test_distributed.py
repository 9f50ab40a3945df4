import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.waiting import wait_for
from training.checkpoint import read, read_metadata
from training.loggers.files import read_rows

UNLIKE = {"seconds", "tokens_per_second", "peak_memory_mib"}


def two(strategy: str) -> list[str]:
    return ["--trainer.devices", "2", "--trainer.strategy", strategy]


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


@pytest.fixture(scope="module")
def one(fit: Callable[..., Path], uneven: list[str]) -> Path:
    """The run of one process."""
    return fit(name="one", given=[*uneven, "--trainer.enable_progress_bar", "false"])


def check_alike(ours: Path, theirs: Path) -> None:
    """The same figures, and the same weights and moments under the same names, but for rounding."""
    for row, other in zip(read_rows(ours / "metrics.jsonl"), read_rows(theirs / "metrics.jsonl"), strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - UNLIKE:
            assert row[key] == pytest.approx(other[key], rel=1e-5), key
    mine, other = (read(run / "checkpoints" / "last.ckpt") for run in (ours, theirs))
    assert list(mine["state_dict"]) == list(other["state_dict"])
    for name, tensor in mine["state_dict"].items():
        torch.testing.assert_close(tensor, other["state_dict"][name], rtol=1e-4, atol=1e-6, msg=name)
    (moments,), (others,) = mine["optimizer_states"], other["optimizer_states"]
    assert moments["param_groups"] == others["param_groups"]
    torch.testing.assert_close(moments["state"], others["state"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_like_one(
    strategy: str, start: Callable[..., Any], uneven: list[str], one: Path, runs: Path
) -> None:
    process = start("fit", *uneven, "--run.name", strategy, *two(strategy))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    check_alike(runs / strategy, one)
    states = read(runs / strategy / "checkpoints" / "last.ckpt")["random_states"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])


@pytest.mark.slow
def test_a_signal_to_any_rank_stops_all_after_a_checkpoint(
    start: Callable[..., Any], uneven: list[str], runs: Path
) -> None:
    long = [*uneven, "--trainer.max_steps", "100000", "--run.name", "signalled", *two("ddp")]
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
