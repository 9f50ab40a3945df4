"""Training a mixture of experts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import blockformer as bf
import registry
from blockformer.assembly.checkpoint import model_weights, read_checkpoint
from blockformer.training.module import TrainingModule
from blockformer.training.optimizers import OptimizerSettings
from blockformer.training.recipe_argument import RecipeArgument

EXPERTS = {
    "decoder.depth": 1,
    "decoder.layer.feedforward": {
        "type": "moe",
        "experts": 4,
        "expert": {"hidden": 16},
        "router": {"balance_rate": 0.5},
    },
}
Batch = dict[str, Tensor]


def batches(*scored: int) -> list[Batch]:
    """Batches of one row of eight tokens, each with so many scored targets."""
    made: list[Batch] = []
    for number, count in enumerate(scored):
        draw = torch.Generator().manual_seed(number)
        tokens, targets = (torch.randint(260, (1, 8), generator=draw) for _ in range(2))
        targets[:, count:] = -100
        made.append({"tokens": tokens, "targets": targets})
    return made


def trained(loader: list[Batch], **trainer: Any) -> TrainingModule:
    module = TrainingModule(
        RecipeArgument(registry.load_recipe("tiny_decoder", EXPERTS)),
        OptimizerSettings(warmup_steps=0, schedule="constant"),
    )
    usual = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_epochs": 1}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(**(usual | quiet | trainer)).fit(module, DataLoader(cast("Any", loader), batch_size=None))
    return module


def test_the_auxiliary_loss_joins_the_mean_over_targets() -> None:
    parts = batches(8, 3)
    model, total = bf.build("tiny_decoder", EXPERTS), torch.zeros(())
    for part in parts:
        wanted = part["targets"][0]
        total = total + nn.functional.cross_entropy(model(part["tokens"])[0], wanted, reduction="sum")
        total = total + model.auxiliary_loss() * (wanted != -100).sum()
    (total / 11).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    found = trained(parts, accumulate_grad_batches=2).gradient_norm
    torch.testing.assert_close(found, norm)


def test_biases_move_once_after_each_step_against_the_load_of_all_its_parts() -> None:
    parts = batches(8, 8)
    module, model = trained(parts, accumulate_grad_batches=2), bf.build("tiny_decoder", EXPERTS)
    for part in parts:
        model(part["tokens"])
        model.auxiliary_loss()
    model.update()
    (found,), (expected,) = module.model.routers, model.routers
    assert torch.equal(cast("Any", found).selection_bias, cast("Any", expected).selection_bias)
    assert bool(cast("Any", found).selection_bias.any())


@pytest.mark.slow
def test_two_processes_balance_like_one(
    fit: Callable[..., Path], together: Callable[..., Any], text: Path, runs: Path
) -> None:
    balance = "{type: moe, experts: 4, expert: {hidden: 16}, router: {balance_rate: 0.01, balance_loss: 1.0}}"
    arguments = [
        *("--recipe", "tiny_decoder", "--recipe.decoder.depth", "1", f"--recipe.decoder.layer.feedforward={balance}"),
        *("--data.dataset", "text", f"--data.files={text}", "--data.tokenizer", "bytes", "--data.length", "32"),
        *("--data.batch_size", "8", "--trainer.accelerator", "cpu", "--trainer.max_steps", "4"),
        *("--run.wandb", "disabled", "--run.root", str(runs), "--optimizer.warmup_steps", "0"),
    ]
    process = together(
        "fit", *arguments, "--run.name", "experts_two", "--trainer.devices", "2", "--trainer.strategy", "ddp"
    )
    one = fit(name="experts_one", given=[*arguments, "--trainer.enable_progress_bar", "false"])
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    both = [model_weights(read_checkpoint(run / "checkpoints" / "last.ckpt")) for run in (runs / "experts_two", one)]
    for name, tensor in both[0].items():  # AdamW makes steps of 1e-3 also where a gradient is hardly more than rounding
        torch.testing.assert_close(tensor, both[1][name], rtol=1e-4, atol=3e-5, msg=name)
    assert any(bool(tensor.any()) for name, tensor in both[0].items() if "selection_bias" in name)
