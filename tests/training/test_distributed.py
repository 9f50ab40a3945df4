import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread

from blockformer.assembly.checkpoint import read_checkpoint, read_metadata, read_training_state
from blockformer.assembly.checkpoint_parts import parts_of
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.loggers.sent_rows import CLOCKS
from tests.training.waiting import wait_for


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
        *("--optimizer.eps", "1e-4"),  # or AdamW makes steps out of the rounding of gradients that are 0
    ]


@pytest.fixture(scope="module")
def one(fit: Callable[..., Path], uneven: list[str]) -> Path:
    """The run of one process."""
    return fit(name="one", given=[*uneven, "--trainer.enable_progress_bar", "false"])


def check_alike(ours: Path, theirs: Path) -> None:
    """The same figures, and the same weights and moments under the same names, but for rounding."""
    for row, other in zip(read_rows(ours / "metrics.jsonl"), read_rows(theirs / "metrics.jsonl"), strict=True):
        assert row.keys() - CLOCKS == other.keys() - CLOCKS
        for key in row.keys() - CLOCKS:
            assert row[key] == pytest.approx(other[key], rel=1e-5), key
    mine, other = (read_training_state(run / "checkpoints" / "last.ckpt") for run in (ours, theirs))
    assert list(mine["state_dict"]) == list(other["state_dict"])
    for name, tensor in mine["state_dict"].items():
        torch.testing.assert_close(tensor, other["state_dict"][name], rtol=1e-4, atol=1e-6, msg=name)
    (moments,), (others,) = mine["optimizer_states"], other["optimizer_states"]
    assert moments["param_groups"] == others["param_groups"]
    torch.testing.assert_close(moments["state"], others["state"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", ["ddp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fsdp2", "tensor_parallel"))]
)
def test_two_processes_train_like_one(
    strategy: str, together: Callable[..., Any], uneven: list[str], one: Path, runs: Path
) -> None:
    process = together("fit", *uneven, "--run.name", strategy, *two(strategy))
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    check_alike(runs / strategy, one)
    states = read_checkpoint(runs / strategy / "checkpoints" / "last.ckpt")["random_states"]
    assert len(states) == 2
    alike = torch.equal(states[0]["torch"], states[1]["torch"])
    assert alike == (strategy == "tensor_parallel")  # whose processes read the same data, and drop the same of it
    split = "split: mixer attention, feedforward mlp, mixer cross_attention; replicated: embedding token, norm layer"
    assert (split in output) == alike


EXPERTS = (
    "{type: moe, experts: 4, expert: mlp, shared: glu, router: {type: top_k, balance_loss: 0, balance_rate: 0.01}}"
)
# Settings that have nothing to do with each other share a run.
HARDER = {
    "experts, watched": (
        *("--recipe.decoder.layer.feedforward", EXPERTS),
        *("--run.watch_every", "2", "--run.attention_every", "4"),
    ),
    "sharing layers, clipping, loss in parts": (
        *("--recipe.decoder.distinct=1", "--recipe.encoder.norm=dynamic_tanh", "--trainer.gradient_clip_val", "0.5"),
        *("--objective.loss_chunk", "5", "--objective.z_loss", "0.01"),
    ),
    "muon, experts, a mean of the weights": (
        *("--optimizer.type", "muon", "--optimizer.precision", "float32", "--optimizer.ema", "0.5"),
        *("--recipe.decoder.layer.feedforward", EXPERTS),
    ),
    "schedule free, adapters": (
        *("--optimizer.type", "schedule_free", "--optimizer.train", "*norm*"),
        *("--recipe.adapters", '{"*.layers.*": {rank: 2}}', "--recipe.decoder.layer.feedforward", EXPERTS),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("model", HARDER)
def test_other_models_and_settings_are_trained_alike(
    model: str, fit: Callable[..., Path], together: Callable[..., Any], uneven: list[str], runs: Path
) -> None:
    given, name = [*uneven, *HARDER[model]], model.replace(", ", "-").replace(" ", "-")
    watched = "watched" in model
    alone = fit(name=f"{name}-alone", given=[*given, "--trainer.enable_progress_bar", "false"])
    for strategy in ("fsdp2", "tensor_parallel", *(["ddp"] if watched else [])):
        process = together("fit", *given, "--run.name", f"{name}-{strategy}", *two(strategy))
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
        check_alike(runs / f"{name}-{strategy}", alone)
        pictures = sorted((alone / "attention").glob("*/*"))
        assert len(pictures) == (2 * 3 * 2 if watched else 0)  # steps, attentions of a layer pair, layers
        for picture in pictures:
            other = runs / f"{name}-{strategy}" / picture.relative_to(alone)
            assert abs(imread(picture) - imread(other)).mean() < 1e-3


BREAKING = (
    "--trainer.limit_val_batches",
    "0",
    "--optimizer.lr",
    "1e30",
    "--optimizer.schedule",
    "constant",
    "--trainer.max_steps",
    "20",
)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "skips"), [("ddp", "0"), ("fsdp2", "2"), ("tensor_parallel", "0")])
def test_all_processes_name_the_same_broken_layer(
    strategy: str, skips: str, together: Callable[..., Any], uneven: list[str], runs: Path
) -> None:
    given = (*uneven, *BREAKING, *two(strategy), "--run.skip_non_finite", skips)
    process = together("fit", *given, "--run.name", f"breaking-{strategy}-{skips}")
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 1, output
    assert "first in the output of encoder.layers.0" in output.splitlines()[-1], output


@pytest.mark.slow
def test_four_processes_divide_the_model_both_ways(
    together: Callable[..., Any], uneven: list[str], one: Path, runs: Path
) -> None:
    both = ("class_path=blockformer.training.parallel.strategy.ShardedStrategy", "init_args.tensor_parallel=2")
    strategy = [f"--trainer.strategy.{item}" for item in both]
    process = together("fit", *uneven, "--run.name", "four", "--trainer.devices", "4", *strategy)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    check_alike(runs / "four", one)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this run had 2 processes and now has 1")
@pytest.mark.parametrize("strategy", ["fsdp2", "tensor_parallel"])
def test_a_run_goes_on_from_its_checkpoint_also_in_one_process(
    strategy: str, fit: Callable[..., Path], together: Callable[..., Any], uneven: list[str], one: Path, runs: Path
) -> None:
    def run(name: str, *more: str) -> Path:
        process = together("fit", *uneven, "--run.name", f"{strategy}-{name}", *two(strategy), *more)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
        return runs / f"{strategy}-{name}"

    whole = run("whole")
    half = run("half", "--trainer.max_steps", "2", "--optimizer.decay_steps", "4")
    shutil.copytree(half, runs / f"{strategy}-alone")
    quiet = ["--trainer.enable_progress_bar", "false"]
    alone = fit("--ckpt_path", "last", name=f"{strategy}-alone", given=[*uneven, *quiet])
    again = run("half", "--ckpt_path", "last")
    for name, tensor in read_checkpoint(whole / "checkpoints" / "last.ckpt")["state_dict"].items():
        assert torch.equal(read_checkpoint(again / "checkpoints" / "last.ckpt")["state_dict"][name], tensor), name
    check_alike(alone, one)


@pytest.mark.slow
def test_a_callback_of_ones_own_saves_the_whole_model(
    together: Callable[..., Any], uneven: list[str], runs: Path, tmp_path: Path
) -> None:
    """Also where the run's own checkpoints are written in parts, by all processes."""
    given = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": str(tmp_path)}}
    steps = ["--trainer.max_steps", "1", "--optimizer.decay_steps", "4", "--trainer.callbacks", json.dumps([given])]
    process = together("fit", *uneven, "--run.name", "own-saver", *two("fsdp2"), *steps)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    (path,) = tmp_path.glob("*.ckpt")
    found = torch.load(path, weights_only=True)["state_dict"]
    expected = read_checkpoint(runs / "own-saver" / "checkpoints" / "last.ckpt")["state_dict"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.slow
def test_a_run_goes_through_all_strategies_as_through_one_process(
    fit: Callable[..., Path],
    together: Callable[..., Any],
    uneven: list[str],
    runs: Path,
) -> None:
    """One process, FSDP2, tensor parallelism, both with four processes; with a mean of the weights."""
    given = [*uneven, "--optimizer.ema", "0.5", "--optimizer.decay_steps", "4", "--trainer.limit_val_batches", "0"]
    quiet = ["--trainer.enable_progress_bar", "false"]
    whole = fit(name="not-moved", given=[*given, *quiet])
    moved = fit("--trainer.max_steps", "1", "--run.checkpoint", "sharded", name="moved", given=[*given, *quiet])
    both = "class_path=blockformer.training.parallel.strategy.ShardedStrategy", "init_args.tensor_parallel=2"
    four = ["--trainer.devices", "4", *(f"--trainer.strategy.{item}" for item in both)]
    for step, strategy in enumerate((two("fsdp2"), two("tensor_parallel"), four), start=2):
        words = [*given, "--run.name", "moved", *strategy, "--trainer.max_steps", str(step), "--ckpt_path", "last"]
        process = together("fit", *words)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
        parts = parts_of(moved / "checkpoints" / "last.ckpt")
        assert parts is not None
        sizes = [file.size for file in parts.table.files]
        assert len(sizes) == (4 if step == 4 else 2)  # of the processes each has written its own part
        assert max(sizes) < 0.6 * sum(sizes)
    check_alike(moved, whole)
    contents = [read_training_state(folder / "checkpoints" / "last.ckpt") for folder in (moved, whole)]
    weights = [content["callbacks"]["WeightAverage"]["weights"] for content in contents]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "tensor_parallel"])
def test_other_processes_evaluate_a_checkpoint_alike(
    strategy: str, together: Callable[..., Any], one: Path, runs: Path
) -> None:
    checkpoint = one / "checkpoints" / "last.ckpt"
    cpu = ("--trainer.accelerator", "cpu", *two(strategy))
    process = together("validate", "--ckpt_path", str(checkpoint), *cpu)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    found = read_rows(one / "evaluations.jsonl")[-1]
    assert found["val/loss"] == pytest.approx(read_metadata(checkpoint)["evaluation"]["val/loss"], rel=1e-6)


@pytest.mark.slow
def test_what_cannot_be_divided_is_refused_before_anything_is_written(
    together: Callable[..., Any], uneven: list[str], runs: Path
) -> None:
    odd = [*uneven, "--run.name", "odd", "--recipe.encoder.layer.mixer.heads=1"]
    process = together("fit", *odd, *two("tensor_parallel"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert "encoder.layers.0.mixer.q.weight has 1 heads, which is not a multiple of the 2 processes" in output
    assert not (runs / "odd").exists()


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
