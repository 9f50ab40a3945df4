"""The command line on a GPU: train, be killed and continue, compare, generate."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blockformer.assembly.checkpoint import model_weights, read_checkpoint
from blockformer.cli.main import main
from blockformer.training.loggers.file_logger import read_rows
from tests.gpu.comparison import GPU
from tests.studies.test_compare import STUDY
from tests.training.test_resume import figures, same, state
from tests.training.waiting import wait_for

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
Fit = Callable[..., Path]
ON_GPU = ["--trainer.accelerator", "gpu" if GPU.type == "cuda" else "cpu", "--trainer.devices", "1"]
EXACT = [*ON_GPU, "--trainer.deterministic", "true"]
MIXED = [*ON_GPU, "--trainer.precision", "bf16-mixed"]
STEPS = ["--trainer.max_steps", "40", "--trainer.val_check_interval", "10"]
QUIET = ["--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"]
HYBRID = ["--recipe", "tiny_hybrid", "--recipe.decoder.depth", "4", "--recipe.embedding.dropout", "0"]
EXPERTS = ["--recipe", "tiny_experts", "--recipe.decoder.depth", "2", "--recipe.embedding.dropout", "0"]


def losses(folder: Path) -> list[float]:
    return [row["val/loss"] for row in read_rows(folder / "metrics.jsonl") if "val/loss" in row]


@pytest.fixture(scope="module")
def mixed(fit: Fit) -> Path:
    """A run on the GPU in mixed precision."""
    return fit(*STEPS, *MIXED, name="mixed")


def test_mixed_precision_learns_as_float32_on_a_cpu_does(fit: Fit, mixed: Path) -> None:
    here = fit(*STEPS, "--recipe.embedding.dropout", "0", name="cpu")
    there = fit(*STEPS, *ON_GPU, "--recipe.embedding.dropout", "0", name="gpu")
    assert losses(there) == pytest.approx(losses(here), rel=1e-3)
    assert losses(mixed)[-1] == pytest.approx(losses(here)[-1], rel=0.05)
    rows = [row for row in read_rows(mixed / "metrics.jsonl") if "train/loss" in row]
    assert all(row["mfu"] > 0 and row["peak_memory_mib"] > 0 for row in rows[1:])
    assert GPU.type == "cpu" or all(row["mfu"] < 1 for row in rows)
    assert all(value.device.type == "cpu" for value in state(mixed).values())  # a checkpoint opens without a GPU


OPTIONS = {
    "compiled": ["--model.compile", "true"],
    "muon": ["--optimizer.type", "muon"],
    "loss in parts": ["--objective.loss_chunk", "16"],
    "float16": ["--trainer.precision", "16-mixed"],
    "bfloat16": ["--trainer.precision", "bf16-true"],
    "recurrent": HYBRID,
    "experts": EXPERTS,
    "compiled experts": [*EXPERTS, "--model.compile", "true"],
    "fsdp2": ["--trainer.strategy", "fsdp2"],
    "accumulating": ["--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "1"],
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_run_learns_with_every_option(fit: Fit, option: str) -> None:
    if GPU.type == "cpu" and option in ("float16", "fsdp2"):
        pytest.skip("needs a GPU")
    folder = fit(*STEPS, *MIXED, *OPTIONS[option], name=option.replace(" ", "-"))
    found = losses(folder)
    assert len(found) >= 4
    assert found[-1] < found[0] < 6
    assert all(value.isfinite().all() for value in state(folder).values())


def test_a_killed_run_continues_exactly(
    start: Callable[..., Any], arguments: list[str], runs: Path, fit: Fit, tmp_path: Path
) -> None:
    length = ["--trainer.max_steps", "400", "--trainer.val_check_interval", "50", "--run.save_every", "10", *EXACT]
    whole = fit(*length, name="whole")
    process = start(
        *("fit", *arguments, *length, "--run.root", str(runs), "--run.name", "killed"), BLOCKFORMER_CACHE=str(tmp_path)
    )
    wait_for(lambda: len(read_rows(runs / "killed" / "metrics.jsonl")) > 30, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    broken = fit("--ckpt_path", "last", *EXACT, *QUIET, name="killed", given=[])
    assert figures(broken) == figures(whole)
    assert same(state(broken), state(whole))


def test_a_run_moves_between_the_devices(fit: Fit) -> None:
    length = ["--trainer.max_steps", "8", "--optimizer.schedule", "constant"]
    fit(*length, *ON_GPU, name="moving")
    folder = fit(
        *("--ckpt_path", "last", "--trainer.max_steps", "12", "--trainer.accelerator", "cpu", *QUIET),
        name="moving",
        given=[],
    )
    fit("--ckpt_path", "last", "--trainer.max_steps", "16", *ON_GPU, *QUIET, name="moving", given=[])
    assert [row["step"] for row in figures(folder) if "train/loss" in row] == list(range(1, 17))


def test_a_study_is_run_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "which.yaml", tmp_path / "out"
    trainer = f"trainer: {{accelerator: {ON_GPU[1]}, devices: 1, precision: bf16-mixed, "
    path.write_text(STUDY.replace("trainer: {", trainer))
    assert main(["compare", str(path), "--out", str(out), "--run.wandb", "disabled"]) == 0, capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert {run["status"] for run in results["runs"]} == {"finished"}
    assert results["verdicts"]["relu2"]["seeds"] == 2
    assert all(one["peak_memory"] > 0 and one["tokens_per_second"] > 0 for one in results["speed"].values())


def test_a_trained_model_writes_the_same_on_both_devices(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fit(*STEPS, *ON_GPU, name="writing")
    answers: list[str] = []
    capsys.readouterr()
    for device in ("cpu", str(GPU)):
        asked = ("--prompt", "the quick", "--greedy", "--max-new-tokens", "20", "--device", device)
        assert main(["generate", str(folder), *asked]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != "the quick\n"


def test_memory_is_near_what_show_predicts() -> None:
    if GPU.type == "cpu":
        pytest.skip("measures a GPU's memory")
    from blockformer.inspection.memory import memory
    from blockformer.studies.training_step import peak_memory
    from registry import load_recipe

    sizes = {"dim": 256, "max_length": 512, "decoder.depth": 4, "decoder.layer.feedforward.hidden": 1024}
    recipe = load_recipe("tiny_decoder", sizes)
    for precision, trainer in (("fp32", "32-true"), ("bf16-mixed", "bf16-mixed")):
        predicted = memory(recipe, precision, 16, 512).training
        fit: dict[str, Any] = {"trainer": {"precision": trainer}, "data": {"batch_size": 16}}
        assert predicted == pytest.approx(peak_memory(recipe, fit, 512), rel=0.3), precision


def test_a_checkpoint_holds_the_state_of_the_gpus_random_numbers(mixed: Path) -> None:
    checkpoint = read_checkpoint(mixed / "checkpoints" / "last.ckpt")
    assert model_weights(checkpoint)
    (states,) = checkpoint["random_states"]
    assert ("cuda" in states) == torch.cuda.is_available()
