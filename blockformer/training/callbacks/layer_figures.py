"""Norms of gradients, weights and updates, activations and expert load, layer by layer."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from blockformer.training.callbacks.metrics import MetricsLogger
from blockformer.training.callbacks.step_callback import StepCallback, is_due
from blockformer.training.module import TrainingModule
from blockformer.training.parallel.shards import local
from blockformer.training.watch.forward import beside_training
from blockformer.training.watch.norms import norms
from blockformer.training.watch.places import Members, parameters_by_place
from blockformer.training.watch.recorder import Recorder


class LayerFigures(StepCallback):
    """Writes a row with figures of each layer at the first step and every ``every`` steps.

    For each place of :func:`~blockformer.training.watch.places.places`: `gradient_norm/PLACE` of the whole step before
    clipping, `weight_norm/PLACE` before the update, and `update_ratio/PLACE`, the norm of the update over that of the
    weights (left out where that is 0), for which such a step keeps a copy of the weights. For each layer
    `activation_rms/LAYER`, the root mean square of its output without padding; for each mixture of experts
    `expert_load_max/...` and `expert_load_min/...`, the tokens of its most and least loaded expert, relative to an even
    load.

    Activations and load are taken in the training step by hooks, which exist in these steps only. A compiled model does
    not call them; it runs the batch once more, without compilation and dropout.

    Args:
        every: optimizer steps between two rows.
        meter: writes the row.
    """

    def __init__(self, every: int, meter: MetricsLogger) -> None:
        self._every, self._meter = every, meter
        self._recorder: Recorder | None = None  # while a step is recorded
        self._members: Members = {}
        self._before: dict[str, Tensor] = {}  # the weights before the update
        self._figures: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, TrainingModule)
        module = pl_module
        module.before_clipping.insert(0, lambda: self._measure(module))  # before a step that broke is run again

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, TrainingModule)
        if not is_due(trainer.global_step + 1, self._every):
            return
        if self._recorder is None:
            self._recorder = Recorder(pl_module.model)
        if not pl_module.compiled:
            self._recorder.resume()
            return
        with beside_training(trainer, pl_module), self._recorder.recording():
            pl_module.objective(pl_module.model, batch)

    def _measure(self, module: TrainingModule) -> None:
        """Take the norms before gradients are clipped and weights are changed."""
        if self._recorder is None:
            return
        self._recorder.pause()
        self._members = parameters_by_place(module.model)
        named = [pair for parameters in self._members.values() for pair in parameters]
        self._before = {name: local(parameter.detach()).clone() for name, parameter in named}
        self._figures = {
            "gradient_norm": norms(self._members, lambda _, parameter: parameter.grad, module.shards),
            "weight_norm": norms(self._members, lambda _, parameter: parameter, module.shards),
        }

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, TrainingModule)
        if self._recorder is None:
            return

        def update(name: str, parameter: Tensor) -> Tensor:
            return local(parameter.detach()) - self._before[name]

        changes = norms(self._members, update, module.shards)
        self._figures["update_ratio"] = changes / self._figures["weight_norm"]
        row = {
            f"{figure}/{place}": value
            for figure, values in self._figures.items()
            for place, value in zip(self._members, values.tolist(), strict=True)
            if math.isfinite(value)  # no ratio where all weights are 0
        }
        row |= self._recorder.figures(lambda sums: summed(trainer, sums))
        self._forget()
        self._meter.publish(trainer, module, row)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks of a step that did not end."""
        self._forget()

    def _forget(self) -> None:
        if self._recorder is not None:
            self._recorder.pause()
        self._recorder, self._members, self._before, self._figures = None, {}, {}, {}


def summed(trainer: Trainer, values: Tensor) -> Tensor:
    """Sums over all processes; of a tensor-parallel group each counts alike, so that ratios of sums are right."""
    if trainer.world_size == 1:
        return values
    reduced = trainer.strategy.reduce(values.clone(), reduce_op="sum")
    assert isinstance(reduced, torch.Tensor)
    return reduced
