"""Each task separates models that can solve it from models that cannot, trained by the command itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockformer.training.loggers.file_logger import read_rows

Fit = Callable[..., Path]
FIT = [
    *("--recipe", "tiny_decoder", "--recipe.init", "xavier", "--recipe.decoder.layer.mixer.heads", "2"),
    *("--optimizer.lr", "1e-2", "--optimizer.warmup_steps", "50", "--optimizer.weight_decay", "0"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"),
    *("--trainer.log_every_n_steps", "50", "--run.save_every", "100000", "--data.batch_size", "64"),
]
LINEAR: dict[str, Any] = {"decoder.layer.mixer": {"type": "linear", "heads": 1, "head_dim": 2}}
DELTA: dict[str, Any] = {"decoder.depth": 1, "decoder.layer.mixer": {"type": "gated_delta", "heads": 4}}
REVERSING: dict[str, Any] = {
    "decoder.depth": 1,
    "decoder.layer.mixer": {"type": "gated_delta", "heads": 4, "negative_eigenvalues": True},
}
ONE: dict[str, Any] = {"decoder.depth": 1, "dim": 16, "init": "normal", "decoder.layer.mixer.heads": 4}
MQAR = {"dataset": "mqar", "pairs": 4, "key_tokens": 8, "value_tokens": 8, "length": 32}
INDUCTION = {"dataset": "induction", "context": 6, "symbols": 6, "length": 40}
COPY = {"dataset": "copy", "symbols": 8, "length": 24}
SELECTIVE = {"dataset": "selective_copy", "items": 6, "symbols": 8, "length": 24}
PARITY = {"dataset": "parity", "length": 16, "evaluation_length": 64, "batch_size": 32}
FACTS = {"dataset": "memorisation", "symbols": 24, "values": 16, "length": 32, "batch_size": 32}
CONTROLS: dict[str, tuple[dict[str, Any], int, dict[str, Any], dict[str, Any]]] = {
    "mqar: attention, and a linear mixer with a small state": (MQAR, 700, {}, LINEAR),
    "induction: two layers of attention, and one": (INDUCTION, 600, {}, {"decoder.depth": 1}),
    "copy: attention, and a linear mixer with a small state": (COPY, 400, {}, LINEAR),
    "selective copy: attention, and a linear mixer with a small state": (SELECTIVE, 400, {}, LINEAR),
    "parity beyond the trained length: beta up to 2, and up to 1": (PARITY, 900, REVERSING, DELTA),
    "memorisation: with a feed-forward, and without": (
        *(FACTS, 500),
        ONE | {"decoder.layer.feedforward.hidden": 128},
        ONE | {"decoder.layer.feedforward": "none"},
    ),
}
IDS = {"mqar": 16, "induction": 6, "copy": 10, "selective_copy": 10, "parity": 2, "memorisation": 64}


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
def test_a_task_is_solved_by_what_can_solve_it_and_not_by_what_cannot(control: str, fit: Fit) -> None:
    data, steps, able, unable = CONTROLS[control]
    accuracy: list[float] = []
    for place, recipe in enumerate((able, unable)):
        sizes = {"vocab_size": IDS[data["dataset"]], "max_length": data.get("evaluation_length", 64)}
        options = [f"--recipe.{key}={json.dumps(value)}" for key, value in (sizes | recipe).items()]
        options += [f"--data.{key}={value}" for key, value in data.items()]
        options += [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}"]
        if not place and data["dataset"] in ("copy", "induction"):  # a decoder without a feed-forward is enough
            options.append("--recipe.decoder.layer.feedforward=none")
        if data is MQAR:
            options.append("--optimizer.lr=5e-3")  # at 1e-2, one seed of four was not solved in 1,200 steps
        folder = fit(*options, name=f"{data['dataset']}-{place}", given=FIT)
        accuracy.append(
            [row["val/accuracy"] for row in read_rows(folder / "metrics.jsonl") if "val/accuracy" in row][-1]
        )
    solved, unsolved = accuracy
    assert solved > 0.9
    assert unsolved < 0.65
