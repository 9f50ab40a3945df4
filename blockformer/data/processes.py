"""Which of several processes this is."""

from typing import Any, NamedTuple, cast

from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only


def is_first() -> bool:
    """Whether this is the process that speaks and writes, as far as the environment tells."""
    return cast("Any", rank_zero_only).rank == 0


class DataProcesses(NamedTuple):
    """The processes that read different data; of a tensor-parallel group, which reads the same, only one counts.

    Attributes:
        rank: which of them this is, or belongs to.
        world: how many there are.
    """

    rank: int
    world: int


def data_processes(trainer: Any) -> DataProcesses:
    """Of a trainer whose processes have been started."""
    if not isinstance(trainer.strategy, ModelParallelStrategy):
        return DataProcesses(trainer.global_rank, trainer.world_size)
    group = trainer.strategy.device_mesh["data_parallel"]
    return DataProcesses(group.get_local_rank(), group.size())
