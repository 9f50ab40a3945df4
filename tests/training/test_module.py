"""The training module with loaders made by hand."""

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import blockformer as bf
import registry
from blockformer.training.callbacks import RandomState
from blockformer.training.callbacks.random_state import current, restore, seed
from blockformer.training.module import TrainingModule
from blockformer.training.optimizers import OptimizerSettings
from blockformer.training.recipe_argument import RecipeArgument

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


def joined(several: list[Batch]) -> Batch:
    return {key: torch.cat([batch[key] for batch in several]) for key in several[0]}


def trained(loader: list[Batch], **trainer: Any) -> TrainingModule:
    recipe = RecipeArgument(registry.load_recipe("tiny_decoder", ["decoder.depth=1"]))
    module = TrainingModule(recipe, OptimizerSettings(warmup_steps=0, schedule="constant"))
    usual = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_epochs": 1}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(**(usual | quiet | trainer)).fit(module, DataLoader(loader, batch_size=None))
    return module


def test_accumulated_parts_count_by_their_targets() -> None:
    parts = batches(8, 1, 3, 5)
    together = trained([joined(parts[:2]), joined(parts[2:])])
    apart = trained(parts, accumulate_grad_batches=2)
    assert together.gradient_norm is not None
    torch.testing.assert_close(apart.gradient_norm, together.gradient_norm)
    for ours, theirs in zip(apart.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_the_mean_over_targets() -> None:
    (batch,) = batches(5)
    model = bf.build("tiny_decoder", ["decoder.depth=1"])
    logits = model(batch["tokens"])
    nn.functional.cross_entropy(logits[0], batch["targets"][0]).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(trained([batch]).gradient_norm, norm)


def test_gradients_are_clipped_and_the_norm_from_before_is_kept() -> None:
    loader = batches(8)
    free, clipped = trained(loader), trained(loader, gradient_clip_val=1e-3)
    torch.testing.assert_close(clipped.gradient_norm, free.gradient_norm)
    assert clipped._gradients()
    norm = torch.nn.utils.get_total_norm(clipped._gradients())
    torch.testing.assert_close(norm, torch.tensor(1e-3), rtol=1e-2, atol=0)


def test_a_batch_without_targets_changes_nothing_but_decay() -> None:
    module = trained(batches(0))
    assert module.gradient_norm == 0
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_tokens_are_counted() -> None:
    assert trained(batches(8, 8, 8)).tokens_seen == 24


def test_the_inner_model_is_compiled_and_keeps_its_names() -> None:
    recipe = RecipeArgument(registry.load_recipe("tiny_decoder", ["decoder.depth=1"]))
    module = TrainingModule(recipe, OptimizerSettings(), compile=True)
    names = set(module.state_dict())
    module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.setup("validate")
    assert module.model._compiled_call_impl is not None
    assert module._compiled_call_impl is None
    assert set(module.state_dict()) == names


def test_random_states_come_back_exactly() -> None:
    import random

    import numpy as np

    seed(0, rank=0, step=0)
    state = current()
    draws = [(random.random(), np.random.random(), torch.rand(3).tolist()) for _ in range(2) if restore(state) is None]
    assert draws[0] == draws[1]


def test_ranks_and_seeds_draw_differently() -> None:
    drawn: set[float] = set()
    for run, rank in ((0, 0), (0, 1), (1, 0)):
        seed(run, rank, step=0)
        drawn.add(torch.rand(()).item())
    assert len(drawn) == 3


def test_continuing_on_other_ranks_says_that_random_states_start_anew() -> None:
    callback = RandomState(0)
    module, trainer = TrainingModule.__new__(TrainingModule), L.Trainer(accelerator="cpu", logger=False)
    callback.on_load_checkpoint(trainer, module, {"random_states": [current(), current()]})
    with pytest.warns(UserWarning, match="this run had 2 processes and now has 1"):
        callback.on_train_start(trainer, module)
