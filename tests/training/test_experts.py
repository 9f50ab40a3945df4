"""Training a mixture of experts."""

from typing import Any, cast

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import blocks
import registry
from training.module import TrainingModule
from training.optim import OptimizerSettings
from training.recipe_argument import RecipeArgument

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
        RecipeArgument(registry.load("tiny_decoder", EXPERTS)), OptimizerSettings(warmup_steps=0, schedule="constant")
    )
    usual = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_epochs": 1}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(**(usual | quiet | trainer)).fit(module, DataLoader(cast("Any", loader), batch_size=None))
    return module


def test_the_auxiliary_loss_joins_the_mean_over_targets() -> None:
    parts = batches(8, 3)
    model, total = blocks.build("tiny_decoder", EXPERTS), torch.zeros(())
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
    module, model = trained(parts, accumulate_grad_batches=2), blocks.build("tiny_decoder", EXPERTS)
    for part in parts:
        model(part["tokens"])
        model.auxiliary_loss()
    model.update()
    (found,), (expected,) = module.model.routers, model.routers
    assert torch.equal(cast("Any", found).selection_bias, cast("Any", expected).selection_bias)
    assert bool(cast("Any", found).selection_bias.any())
