"""Lightning strategies that shard the model: `fsdp2` and `tensor_parallel`."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

from blockformer.assembly.builder import build_unchecked, materialise
from blockformer.assembly.checkpoint import PARTS, LoadError, read_training_state
from blockformer.assembly.checkpoint_parts import Parts
from blockformer.assembly.checkpoint_schema import is_finite, short_name
from blockformer.errors import UserError
from blockformer.training.objectives.vocabulary_loss import divide_rows
from blockformer.training.parallel.fsdp import FSDP
from blockformer.training.parallel.plan import Plan, apply_plan, make_plan
from blockformer.training.parallel.shards import DATA, TENSOR, Shards, local
from blocks.init.keyed import initial_values
from blocks.models.base import Model
from registry import Recipe

PREFIX = "model."  # of the names of the model's parameters in the LightningModule


class ShardedStrategy(ModelParallelStrategy):
    """Shards parameters, gradients and optimizer states; the result and the checkpoints are those of one process.

    Each group of ``tensor_parallel`` processes reads the same data and splits the work of each layer. The groups split
    each batch among them and shard the parameters (FSDP2). With bf16-mixed they gather the parameters of layers in
    bfloat16, and reduce gradients in float32.

    Args:
        tensor_parallel: number of processes in a tensor-parallel group; null: all.
        replicas: number of copies of the parameters, each sharded over an equal part of the groups (hybrid sharding);
            1: sharded over all.
        reshard_after_forward: free a layer's gathered parameters after its forward pass, and gather them again for the
            backward pass; false: keep them; a number: shard them over only so many groups until then.
        prefetch: number of layers whose parameters are gathered while one runs; 0: FSDP2 decides.
        sequence_parallel: a process of a tensor-parallel group keeps its part of the tokens only, between sublayers.
        loss_parallel: a process of such a group computes logits and loss of its part of the tokens only.
    """

    def __init__(
        self,
        tensor_parallel: int | None = 1,
        replicas: int = 1,
        reshard_after_forward: bool | int = True,
        prefetch: int = 0,
        sequence_parallel: bool = False,
        loss_parallel: bool = False,
    ) -> None:
        super().__init__(save_distributed_checkpoint=False)
        self._wanted = tensor_parallel
        self._replicas, self._reshard, self._prefetch = replicas, reshard_after_forward, prefetch
        self._tokens, self._rows = sequence_parallel, loss_parallel
        self.shards: Shards | None = None
        self._in_parts = False

    def setup_environment(self) -> None:
        """Connect the processes and group them.

        Raises:
            UserError: the number of processes is not a multiple of tensor_parallel.
        """
        self._tensor_parallel_size = self.sharing
        self._data_parallel_size = self.num_processes * self.num_nodes // self.sharing
        super().setup_environment()

    @property
    def sharing(self) -> int:
        """Number of processes in a tensor-parallel group.

        Raises:
            UserError: the number of processes is not a multiple of tensor_parallel.
        """
        processes = self.num_processes * self.num_nodes
        wanted = self._wanted or processes
        if processes % wanted:
            raise UserError(f"tensor_parallel {wanted} does not divide the {processes} processes: change one of them")
        return wanted

    def check_sharding(self) -> None:
        """Check the options of FSDP2 against the number of processes.

        Raises:
            UserError: one does not fit, or has no effect.
        """
        groups = self.num_processes * self.num_nodes // self.sharing
        if self._replicas < 1 or groups % self._replicas:
            raise UserError(f"replicas {self._replicas} does not divide the {groups} processes or groups: change it")
        parts, kept = groups // self._replicas, self._reshard
        if parts == 1 and (self._replicas > 1 or kept is not True or self._prefetch):
            raise UserError(
                "replicas, reshard_after_forward and prefetch have no effect, because no parameter is sharded: leave "
                "them out, or use more processes"
            )
        if not isinstance(kept, bool) and (not 1 < kept < parts or parts % kept):
            raise UserError(
                f"reshard_after_forward {kept}: parameters are sharded {parts} ways; give true, false or a number "
                f"above 1 and below {parts} that divides it, if there is one"
            )
        if (self._tokens or self._rows) and self.sharing == 1:
            raise UserError("sequence_parallel and loss_parallel have no effect without tensor_parallel")
        if self._prefetch < 0:
            raise UserError(f"prefetch {self._prefetch}: must be at least 0")

    def plan(self, model: Model) -> Plan:
        """How tensor parallelism splits this model, from its shapes alone.

        Raises:
            UserError: it cannot be split.
        """
        return make_plan(model, self.sharing, tokens=self._tokens) if self.sharing > 1 else Plan(1)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """False: weights are loaded at the same time as with one process."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: the trainer restores the optimizer's state, as with one process."""
        return True

    def divide(self, model: Model, recipe: Recipe, seed: int) -> Shards:
        """Create this process's part of the parameters of a model on the meta device, with initial values.

        The values equal those of one process: each whole tensor is drawn by its name and then split.
        """
        cut = self.plan(model)
        apply_plan(cut, model, self.device_mesh)
        if self._rows:
            divide_rows(model, self.device_mesh[TENSOR].get_group())
        axes = {PREFIX + name: axis for name, axis in cut.cuts.items()}
        self.shards = shards = Shards(self.device_mesh, axes, frozenset(PREFIX + name for name in cut.partial))
        fresh = build_unchecked(recipe)
        states = {name for name, parameter in fresh.named_parameters() if not parameter.requires_grad}
        own = {parameter for name, parameter in model.named_parameters() if name in states}  # which blocks update
        if shards.data.size() > 1:
            mixed = str(self.precision_plugin.precision) == "bf16-mixed"
            FSDP(self._data_mesh(), self._reshard, self._prefetch, mixed=mixed).apply(model, own)
        materialise(model, self.root_device)
        parameters = dict(model.named_parameters())
        with torch.no_grad(), torch.device("cpu"):
            for name, value in initial_values(fresh, model.init, seed):
                parameters[name].copy_(shards.part(PREFIX + name, value, parameters[name]))
        return shards

    def _data_mesh(self) -> DeviceMesh:
        """The groups in one row, or with replicas in one row for each."""
        if self._replicas == 1:
            return self.device_mesh[DATA]
        tensor, data = self.device_mesh[TENSOR].size(), self.device_mesh[DATA].size()
        sizes, names = (self._replicas, data // self._replicas, tensor), ("replicas", "parts", TENSOR)
        return init_device_mesh(self.root_device.type, sizes, mesh_dim_names=names)["replicas", "parts"]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The gathered state dict, in the first process; empty in the others; or each one's parts."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        return self._kept({name: self.stored(name, tensor) for name, tensor in state.items()})

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this process's part of a checkpoint's weights."""
        assert self.lightning_module is not None
        here = self.lightning_module.state_dict()
        parts = {name: self._part(name, tensor, here[name]) for name, tensor in checkpoint["state_dict"].items()}
        if PARTS in checkpoint:
            broken = (name for name, part in parts.items() if part.is_floating_point() and not is_finite(local(part)))
            agree(f"state_dict.{short_name(name)} is not finite: it has infinite values or NaN" for name in broken)
        self.lightning_module.load_state_dict(parts, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The gathered optimizer state, in the first process; empty in the others; or each one's parts."""
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        names, state = self._names(plain), plain.state_dict()
        moments = {
            index: {key: self.stored(names[index], value) if value.ndim else value for key, value in held.items()}
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
        """Write one file from the first process."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Open a checkpoint; its tensors are memory-mapped, or parts of them read, when they are split."""
        content = read_training_state(Path(checkpoint_path), mmap=True, lazy=True)
        if isinstance(parts := content.get(PARTS), Parts):
            agree(_damage(parts, self.global_rank, self.world_size))
            parts.compared = True
        return content

    def _names(self, optimizer: Optimizer) -> list[str]:
        """The parameters' names, in the order of the optimizer's state."""
        assert self.lightning_module is not None
        names = {parameter: name for name, parameter in self.lightning_module.named_parameters()}
        return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]

    def _part(self, name: str, whole: Tensor, like: Tensor) -> Tensor:
        assert self.shards is not None
        return self.shards.part(name, whole, like)

    @contextmanager
    def in_parts(self) -> Generator[None]:
        """Meanwhile the state of the model and the optimizer is each process's part, and is gathered nowhere."""
        self._in_parts = True
        try:
            yield
        finally:
            self._in_parts = False

    def stored(self, name: str, part: Tensor) -> Any:
        """What a checkpoint has of a tensor: this process's part, or all of it in the first process, else None."""
        assert self.shards is not None
        if self._in_parts:
            return self.shards.place(name, part)
        whole = self.shards.whole(name, part)
        return whole.cpu() if self.is_global_zero else None  # other processes drop it at once

    def _kept(self, state: dict[str, Any]) -> dict[str, Any]:
        return state if self.is_global_zero or self._in_parts else {}


def _damage(parts: Parts, rank: int, world: int) -> Iterator[str]:
    """What is wrong with this process's share of the files of a checkpoint."""
    try:
        parts.compare(rank, world)
    except LoadError as error:
        yield str(error)


def agree(problems: Iterable[str]) -> None:
    """Raise the same error in all processes if one of them has a problem; a collective.

    Raises:
        LoadError: one has.
    """
    found: list[str | None] = [next(iter(problems), None)]
    if dist.is_initialized():
        everyone: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, found[0])
        found = everyone
    for problem in found:
        if problem is not None:
            raise LoadError(problem)


def plan_for(strategy: Strategy, model: Model) -> Plan | None:
    """How a strategy splits a model by tensor parallelism; None if it does not.

    Raises:
        UserError: the model cannot be split, or losses, clipping or checkpoints would be wrong with this strategy.
    """
    if isinstance(strategy, ShardedStrategy):
        strategy.check_sharding()
        return strategy.plan(model) if strategy.sharing > 1 else None
    if isinstance(strategy, DDPStrategy) and strategy._start_method != "popen":  # others lose our handlers of signals
        raise UserError(f"--trainer.strategy: ddp_{strategy._start_method} is not supported; use ddp")
    if not isinstance(strategy, DDPStrategy | SingleDeviceStrategy):
        raise UserError(
            f"--trainer.strategy: {type(strategy).__name__} is not supported; use ddp, fsdp2 or tensor_parallel"
        )
    return None


StrategyRegistry.register("fsdp2", ShardedStrategy, "parameters sharded over all processes", tensor_parallel=1)
StrategyRegistry.register(
    "tensor_parallel", ShardedStrategy, "each layer split over all processes", tensor_parallel=None
)
