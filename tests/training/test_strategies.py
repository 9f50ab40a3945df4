"""Every strategy, with every pair of options that change how a step is computed, trains as one process."""

import json
import os
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch

from blockformer.assembly.checkpoint import read_training_state
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.run import train

ROOT = Path(__file__).parents[2]
CLASS = "blockformer.training.parallel.strategy.ShardedStrategy"
TOKENS: dict[str, Any] = {"tensor_parallel": 2, "sequence_parallel": True, "loss_parallel": True}
STRATEGIES: dict[str, tuple[int, dict[str, Any]]] = {
    "ddp": (2, {"trainer.strategy": "ddp"}),
    "fsdp2": (2, {"trainer.strategy": "fsdp2"}),
    "tensor parallel": (2, {"trainer.strategy": "tensor_parallel"}),
    "sequence parallel": (
        2,
        {"trainer.strategy": {"class_path": CLASS, "init_args": TOKENS}},
    ),
    "all three": (4, {"trainer.strategy": {"class_path": CLASS, "init_args": TOKENS}}),
    "both": (4, {"trainer.strategy": {"class_path": CLASS, "init_args": {"tensor_parallel": 2}}}),
    "hybrid": (4, {"trainer.strategy": {"class_path": CLASS, "init_args": {"replicas": 2}}}),
}
CHECKPOINTING, COMPILE = ("none", "layer", "selective"), (False, True, "layer")
ACCUMULATION, PRECISION = (1, 2), ("32-true", "bf16-mixed")
AXES = (tuple(STRATEGIES), CHECKPOINTING, COMPILE, ACCUMULATION, PRECISION)
CHOICES: list[tuple[Any, ...]] = [
    ("ddp", "none", "layer", 1, "bf16-mixed"),
    ("ddp", "layer", True, 2, "32-true"),
    ("ddp", "selective", False, 2, "bf16-mixed"),
    ("fsdp2", "none", True, 2, "bf16-mixed"),
    ("fsdp2", "layer", False, 1, "32-true"),
    ("fsdp2", "selective", "layer", 1, "32-true"),
    ("tensor parallel", "none", False, 2, "32-true"),
    ("tensor parallel", "layer", "layer", 1, "bf16-mixed"),
    ("tensor parallel", "selective", True, 1, "32-true"),
    ("sequence parallel", "none", True, 1, "bf16-mixed"),
    ("sequence parallel", "layer", False, 2, "32-true"),
    ("sequence parallel", "selective", "layer", 1, "32-true"),
    ("all three", "none", False, 1, "32-true"),
    ("all three", "layer", True, 2, "bf16-mixed"),
    ("all three", "selective", "layer", 1, "32-true"),
    ("both", "none", "layer", 2, "32-true"),
    ("both", "layer", False, 1, "bf16-mixed"),
    ("both", "selective", True, 1, "32-true"),
    ("hybrid", "none", True, 1, "32-true"),
    ("hybrid", "layer", "layer", 2, "bf16-mixed"),
    ("hybrid", "selective", False, 1, "32-true"),
]


def test_every_pair_of_choices_is_tried() -> None:
    for (a, ours), (b, theirs) in combinations(enumerate(AXES), 2):
        assert {(row[a], row[b]) for row in CHOICES} == set(product(ours, theirs))


def name_of(choice: tuple[Any, ...]) -> str:
    return "-".join(str(one).replace(" ", "-") for one in choice)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all choices, and of one process with each accumulation and precision."""
    folder = tmp_path_factory.mktemp("strategies")
    pairs = folder / "pairs.tsv"
    pairs.write_text("".join(f"{n:06}\t{n * n:08}\n" for n in range(100)))  # of one length: compiled once
    places = ("embedding", "encoder.layer.residual", "decoder.layer.residual")
    overrides: dict[str, Any] = {f"{place}.dropout": 0 for place in places} | {"encoder.depth": 1, "decoder.depth": 1}
    usual: dict[str, Any] = {"data.dataset": "pairs", "data.files": str(pairs), "data.tokenizer": "bytes"}
    usual |= {
        "data.length": 32,
        "data.batch_size": 8,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 3,
        "trainer.limit_val_batches": 0,
    }
    usual |= {"trainer.log_every_n_steps": 1, "run.wandb": "disabled", "run.root": str(folder / "runs")}
    usual |= {"optimizer.warmup_steps": 0, "optimizer.eps": 1e-4, "trainer.enable_progress_bar": False}
    recipe, runs = "tiny_encoder_decoder", list[Any]()
    for choice in sorted(CHOICES, key=lambda choice: STRATEGIES[choice[0]][0]):
        strategy, checkpointing, how, parts, precision = choice
        world, more = STRATEGIES[strategy]
        more = more | {"model.checkpointing": checkpointing, "model.compile": how, "run.name": name_of(choice)}
        more |= {"trainer.accumulate_grad_batches": parts, "trainer.precision": precision}
        runs.append([world, recipe, overrides, usual | more])
    (folder / "runs.json").write_text(json.dumps(runs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.training.strategy_runs", str(folder / "runs.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    for parts, precision in product(ACCUMULATION, PRECISION):
        alone = {"trainer.accumulate_grad_batches": parts, "trainer.precision": precision}
        train(recipe, overrides, usual | alone | {"run.name": f"alone-{parts}-{precision}"})
    return folder / "runs"


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids=name_of)
def test_a_strategy_with_other_options_trains_as_one_process(choice: tuple[Any, ...], folder: Path) -> None:
    parts, precision = choice[-2:]
    exact = precision == "32-true"
    ours, alone = folder / name_of(choice), folder / f"alone-{parts}-{precision}"
    rows, others = ([row for row in read_rows(run / "metrics.jsonl") if "train/loss" in row] for run in (ours, alone))
    assert len(rows) == len(others) == 3
    for row, other in zip(rows, others, strict=True):
        for key in ("step", "train/loss", "gradient_norm"):
            assert row[key] == pytest.approx(other[key], rel=1e-5 if exact else 5e-3), key
    mine, other = (read_training_state(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (ours, alone))
    assert list(mine) == list(other)
    for name, tensor in mine.items():
        close = {"rtol": 1e-4, "atol": 1e-6} if exact else {"rtol": 0.02, "atol": 1e-3}
        torch.testing.assert_close(tensor, other[name], **close, msg=lambda text, name=name: f"{name}: {text}")
