"""An exponential moving average of the weights, used in validation and stored in checkpoints."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from blockformer.assembly.checkpoint import PREFIX
from blockformer.training.callbacks.step_callback import StepCallback
from blockformer.training.module import TrainingModule
from blockformer.training.parallel.shards import local
from blockformer.training.parallel.strategy import ShardedStrategy


class WeightAverage(StepCallback):
    """Keeps an exponential moving average of the trained parameters: mean <- d * mean + (1 - d) * weights.

    The decay d of step t is at most (1 + t) / (10 + t), so that the first weights are forgotten soon (as in Tarvainen
    and Valpola 2017, arXiv:1703.01780). Validation runs with the mean, which a checkpoint has as its weights; what
    training goes on from is beside it. Each process averages its own part of the parameters.

    Args:
        decay: the largest d.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._other: dict[str, Tensor] = {}  # the mean; while it is in the model, the weights
        self._averaged = False  # whether the mean is in the model
        self._restored: Mapping[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights, or go on from a checkpoint, whose weights are the mean."""
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, TrainingModule)
        self._other = {name: _precise(parameter) for name, parameter in _trained(pl_module)}
        for name, parameter in _trained(pl_module):
            if name in self._restored:
                whole, shards = self._restored[name], pl_module.shards
                part = whole if shards is None else shards.part(PREFIX + name, whole, parameter)
                local(parameter.detach()).copy_(local(part))
        self._restored = {}

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, TrainingModule)
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in _trained(module):
            mean = self._other[name]
            mean.lerp_(local(parameter.detach()).to(mean.dtype), share)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the mean into the model."""
        if self._other and not self._averaged:
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights back into the model."""
        if self._averaged:
            self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the weights back into the model, where a validation was interrupted."""
        self.on_validation_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the mean where the weights are looked for, and the weights beside it."""
        assert isinstance(pl_module, TrainingModule)
        weights: dict[str, Tensor] = {}
        for name, parameter in _trained(pl_module):
            full, strategy = PREFIX + name, trainer.strategy
            mean: Any = parameter.detach() if self._averaged else _like(self._other[name], parameter)
            raw: Any = _like(self._other[name], parameter) if self._averaged else parameter.detach()
            if isinstance(strategy, ShardedStrategy):  # every process takes part
                mean, raw = strategy.stored(full, mean), strategy.stored(full, raw)
            if full in checkpoint["state_dict"]:
                sharded = isinstance(strategy, ShardedStrategy)
                checkpoint["state_dict"][full] = mean if sharded else mean.clone()
                weights[name] = raw if sharded else raw.clone()
        if self._other and weights:
            checkpoint["callbacks"][self.state_key] = {"weights": weights}

    def state_dict(self) -> dict[str, Any]:
        return {"weights": {}}  # on_save_checkpoint fills it in

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict["weights"]

    @torch.no_grad()
    def _swap(self, module: LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        for name, parameter in _trained(module):
            here, other = local(parameter.detach()), self._other[name]
            self._other[name] = _precise(parameter)
            here.copy_(other)
        self._averaged = not self._averaged


def _trained(module: TrainingModule) -> Iterator[tuple[str, Tensor]]:
    """The trained parameters, by their names in the model; each process has its own part of them."""
    for part in module.model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()  # after a forward without a backward pass, some are whole
    return ((name, parameter) for name, parameter in module.model.named_parameters() if parameter.requires_grad)


def _precise(parameter: Tensor) -> Tensor:
    """A copy of this process's part of a parameter, in at least float32."""
    part = local(parameter.detach())
    return part.to(torch.promote_types(part.dtype, torch.float32), copy=True)


def _like(part: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a tensor as what its parameter is: of its type, and a DTensor where that is one."""
    part = part.to(parameter.dtype)
    if not isinstance(parameter, DTensor):
        return part
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(part, parameter.device_mesh, parameter.placements, shape=shape, stride=stride)
