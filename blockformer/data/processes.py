"""The rank of this process among those that log, and among those that read data."""

from typing import Any, NamedTuple, cast

from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only


def is_first() -> bool:
    """Whether this is the process that logs and writes files, according to the environment."""
    return cast("Any", rank_zero_only).rank == 0


def read_rank() -> None:
    """Read this process's rank from the environment, which may have changed since Lightning read it when imported."""
    cast("Any", rank_zero_only).rank = _get_rank() or 0


class DataProcesses(NamedTuple):
    """The processes that read different data; a tensor-parallel group reads the same data and counts as one.

    Attributes:
        rank: index of this process, or of its group.
        world: number of processes and groups.
    """

    rank: int
    world: int


def data_processes(trainer: Any) -> DataProcesses:
    """The data processes of a trainer whose processes have been started."""
    if not isinstance(trainer.strategy, ModelParallelStrategy):
        return DataProcesses(trainer.global_rank, trainer.world_size)
    group = trainer.strategy.device_mesh["data_parallel"]
    return DataProcesses(group.get_local_rank(), group.size())
