"""Lightning strategies that divide the model: `fsdp2` and `tensor_parallel`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

from blockformer import assembly
from blockformer.assembly.builder import materialise
from blockformer.assembly.checkpoint import read_checkpoint
from blockformer.errors import UserError
from blockformer.training.parallel.plan import Plan, apply, plan
from blockformer.training.parallel.shards import DATA, Shards
from blocks.base import Layer
from blocks.init.keyed import initial_values
from blocks.models.base import Model
from registry import Recipe

PREFIX = "model."  # of the model's parameters in the LightningModule


class ShardedStrategy(ModelParallelStrategy):
    """Divides parameters, gradients and optimizer states; what is trained and what is saved is what one process would.

    Groups of ``tensor_parallel`` processes read the same data and share the work on it; there are as many groups as the
    number of processes allows, which share each batch among them and hold the parameters in common (FSDP2).

    Args:
        tensor_parallel: processes in a tensor-parallel group; null: all.
    """

    def __init__(self, tensor_parallel: int | None = 1) -> None:
        super().__init__(save_distributed_checkpoint=False)
        self._wanted = tensor_parallel
        self.shards: Shards | None = None

    def setup_environment(self) -> None:
        """Start the processes' connections, and group them.

        Raises:
            UserError: the processes do not divide into groups of that size.
        """
        self._tensor_parallel_size = self.sharing
        self._data_parallel_size = self.num_processes * self.num_nodes // self.sharing
        super().setup_environment()

    @property
    def sharing(self) -> int:
        """Number of processes in a tensor-parallel group.

        Raises:
            UserError: all processes do not divide into groups of that size.
        """
        processes = self.num_processes * self.num_nodes
        wanted = self._wanted or processes
        if processes % wanted:
            raise UserError(f"{processes} processes do not divide into groups of tensor_parallel {wanted}")
        return wanted

    def plan(self, model: Model) -> Plan:
        """How tensor parallelism cuts this model, of which only shapes are looked at.

        Raises:
            UserError: it cannot be cut so.
        """
        return plan(model, self.sharing) if self.sharing > 1 else Plan(1)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Whether weights are loaded late; here as with one process."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether the trainer hands over the optimizer's state; it does, as with one process."""
        return True

    def divide(self, model: Model, recipe: Recipe, seed: int) -> Shards:
        """Give a model on the meta device the part of its parameters that is this process's, with its initial values.

        They are those of one process: each tensor is drawn whole, by its name, and then cut.
        """
        cut = self.plan(model)
        apply(cut, model, self.device_mesh)
        axes = {PREFIX + name: axis for name, axis in cut.cuts.items()}
        self.shards = shards = Shards(self.device_mesh, axes, frozenset(PREFIX + name for name in cut.partial))
        frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
        if shards.data.size() > 1:
            for part in (*(module for module in model.modules() if isinstance(module, Layer)), model):
                fully_shard(part, mesh=self.device_mesh[DATA], ignored_params=frozen)
        materialise(model, self.root_device)
        parameters = dict(model.named_parameters())
        with torch.no_grad(), torch.device("cpu"):
            for name, value in initial_values(assembly.check(recipe), model.init, seed):
                parameters[name].copy_(shards.part(PREFIX + name, value, parameters[name]))
        return shards

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole state under the names that it has in one process, in the first process; nothing in the others."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        return self._kept({name: self._whole(name, tensor) for name, tensor in state.items()})

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this process's part of a checkpoint's weights."""
        assert self.lightning_module is not None
        here = self.lightning_module.state_dict()
        parts = {name: self._part(name, tensor, here[name]) for name, tensor in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(parts, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As of one process, in the first process; nothing in the others."""
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        names, state = self._names(plain), plain.state_dict()
        moments = {
            index: {key: self._whole(names[index], value) if value.ndim else value for key, value in held.items()}
            for index, held in state["state"].items()
        }
        return self._kept({**state, "state": moments})

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's part of a checkpoint's moments."""
        assert self.lightning_module is not None
        parameters = dict(self.lightning_module.named_parameters())
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            names = self._names(optimizer)
            moments = {
                index: {
                    key: self._part(names[index], value, parameters[names[index]]) if value.ndim else value
                    for key, value in held.items()
                }
                for index, held in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": moments})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write one file, as one process does."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Open a checkpoint; its tensors are read as each is cut."""
        return read_checkpoint(Path(checkpoint_path), mmap=True)

    def _names(self, optimizer: Optimizer) -> list[str]:
        """The parameters' names, in the order of the optimizer's state."""
        assert self.lightning_module is not None
        names = {parameter: name for name, parameter in self.lightning_module.named_parameters()}
        return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]

    def _part(self, name: str, whole: Tensor, like: Tensor) -> Tensor:
        assert self.shards is not None
        return self.shards.part(name, whole, like)

    def _whole(self, name: str, part: Tensor) -> Tensor | None:
        assert self.shards is not None
        whole = self.shards.whole(name, part)
        return whole.cpu() if self.is_global_zero else None  # let go at once where it is not written

    def _kept(self, state: dict[str, Any]) -> dict[str, Any]:
        return state if self.is_global_zero else {}


def plan_for(strategy: Strategy, model: Model) -> Plan | None:
    """How tensor parallelism will cut a model, if it will.

    Raises:
        UserError: it cannot, or with this strategy losses, clipping or checkpoints would not be those of one process.
    """
    if isinstance(strategy, ShardedStrategy):
        return strategy.plan(model) if strategy.sharing > 1 else None
    if not isinstance(strategy, DDPStrategy | SingleDeviceStrategy):
        raise UserError(
            f"--trainer.strategy: {type(strategy).__name__} is not one that training is right with; "
            "say ddp, fsdp2 or tensor_parallel"
        )
    return None


StrategyRegistry.register("fsdp2", ShardedStrategy, "parameters divided among all processes", tensor_parallel=1)
StrategyRegistry.register("tensor_parallel", ShardedStrategy, "each layer's work divided", tensor_parallel=None)
