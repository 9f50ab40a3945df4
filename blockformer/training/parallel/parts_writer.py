"""Write sharded checkpoints with torch.distributed.checkpoint: each process its own part, while training goes on."""

import errno
import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult

from blockformer.assembly.checkpoint_parts import Place, digest, piece_key
from blockformer.assembly.parts_table import PARTS, part_name
from blockformer.files import sync_folder, write_atomically
from blockformer.training.parallel.shards import Part
from blockformer.training.parallel.strategy import ShardedStrategy

SHARED = (("state_dict",), ("optimizer_states",), ("callbacks", "WeightAverage"))
"""What leads to tensors that all processes have a part of, or the same copy; others are small, as random states are."""
LONGEST = 300  # characters of an error of another process
Parts = dict[str, tuple[Place, Part]]


class PartsWriter:
    """Writes sharded checkpoints; every process of a run has one.

    A call returns when the tensors are copied to main memory. A thread writes them: each process its part, into a
    folder that is renamed when all parts are durable; then the first process writes the file that names the folder. So
    an interrupted write changes nothing. Checkpoints of the same step share a folder.

    Args:
        written: called in the first process, in a thread, with the path and the step of each checkpoint that is there.
    """

    def __init__(self, written: Callable[[Path, int], None]) -> None:
        self._written = written
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._step = -1  # of the tensors that were written last
        self._files: _Files | None = None
        self._stored: Any = None  # what torch has begun to write
        self._indices: list[Future[None]] = []
        self._group: Any = None
        self._stager: Any = _Stager()

    def save(self, trainer: Trainer, path: Path) -> None:
        """Begin to write a checkpoint; every process must call this.

        Raises:
            OSError: the one before could not be written.
        """
        strategy = trainer.strategy
        with strategy.in_parts() if isinstance(strategy, ShardedStrategy) else nullcontext():
            content, parts = take_parts(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))
        if self._step != trainer.global_step:
            self.wait(trainer)
            self._store(trainer, parts, path.parent)
            self._step = trainer.global_step
        if trainer.is_global_zero:
            assert self._stored is not None
            assert self._files is not None
            self._indices.append(self._pool.submit(self._finish, self._stored, self._files, path, content))

    def wait(self, trainer: Trainer) -> None:
        """Wait until what was begun is written; every process must call this.

        Raises:
            OSError: it could not be written, by any of the processes.
        """
        error = self._error()
        if trainer.world_size > 1 and self._group is not None:
            errors: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(errors, error, group=self._group)
            error = next((one for one in errors if one is not None), None)
        if error is not None:
            raise error

    def close(self) -> bool:
        """Wait without the other processes, which may have ended. Returns whether all was written."""
        return self._error() is None

    def _error(self) -> Exception | None:
        """Wait for this process's threads. Returns what was wrong."""
        pending, self._indices = [*([self._stored] if self._stored is not None else []), *self._indices], []
        error = None
        for future in pending:
            try:
                future.result()
            except (Exception, CheckpointException) as raised:  # of which the second is no Exception
                error = error or _cause(raised)
        if error is not None:
            self._step, self._stored = -1, None
        return error

    def _store(self, trainer: Trainer, parts: Parts, folder: Path) -> None:
        """Copy the tensors, and have their writing begin."""
        name = trainer.strategy.broadcast(f"step-{trainer.global_step}-{token_hex(4)}.{PARTS}")
        alone = trainer.world_size == 1
        if not alone and self._group is None:
            self._group = dist.new_group(backend="gloo")  # of threads; NCCL has no collectives in main memory
        self._files = _Files(folder, name, trainer.global_rank, {fqn: place for fqn, (place, _) in parts.items()})
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        self._stored = async_save(
            {fqn: part for fqn, (_, part) in parts.items()},
            storage_writer=self._files,
            planner=_Planner(),
            process_group=self._group,
            async_stager=self._stager,
            no_dist=alone,
        )

    def _finish(self, stored: Future[Any], files: "_Files", path: Path, content: dict[str, Any]) -> None:
        """Write the file that names the folder."""
        stored.result()
        write_atomically(path, lambda stream: torch.save({**content, PARTS: files.table}, stream))
        self._written(path, content["global_step"])


def take_parts(content: Mapping[str, Any]) -> tuple[dict[str, Any], Parts]:
    """A copy of a checkpoint's content without its large tensors, in whose places it has None, and these tensors."""
    parts: Parts = {}

    def copied(value: Any, place: Place) -> Any:
        if isinstance(value, Mapping):
            return {key: copied(item, (*place, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [copied(item, (*place, number)) for number, item in enumerate(value)]
        shared = any(place[: len(way)] == way for way in SHARED)
        if isinstance(value, Part) or (isinstance(value, Tensor) and shared and value.ndim and value.numel()):
            part = value if isinstance(value, Part) else Part.of(value.detach())
            parts["/".join(map(str, place))] = place, part
            return None
        return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value

    return copied(content, ()), parts


class _Stager:
    """Copies tensors to main memory. Those of a GPU go to pinned memory, which is kept for the next time."""

    should_synchronize_after_execute = False

    def __init__(self) -> None:
        self._pinned: dict[str, Tensor] = {}

    def stage(self, state_dict: dict[str, Part]) -> dict[str, Part]:
        staged = {name: replace(part, tensor=self._copy(name, part.tensor)) for name, part in state_dict.items()}
        if self._pinned:
            torch.cuda.synchronize()
        return staged

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cuda":
            return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        kept = self._pinned.get(name)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = self._pinned[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return kept.copy_(tensor.detach(), non_blocking=True)

    def synchronize_staging(self) -> None: ...

    def close(self) -> None: ...


class _Planner(DefaultSavePlanner):
    """Plans which process writes which piece; of copies, the process that has least to write takes one."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        held: Mapping[str, Part] = self.state_dict
        self.plan = SavePlan([_item(name, part) for name, part in held.items() if part.tensor.numel()])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        return self.state_dict[index.fqn].tensor


def _item(name: str, part: Part) -> WriteItem:
    offsets, sizes = torch.Size(part.offsets), part.tensor.shape
    about = TensorWriteData(
        ChunkStorageMetadata(offsets, sizes), TensorProperties.create_from_tensor(part.tensor), torch.Size(part.shape)
    )
    return WriteItem(MetadataIndex(name, offsets), WriteItemType.SHARD, tensor_data=about)


class _Files(StorageWriter):
    """Writes the tensors of each process as one archive; its records have checksums, and reading one runs no code.

    Args:
        folder: where the checkpoint is.
        name: of the folder of parts in it.
        rank: of this process.
        places: by names of tensors, the keys that lead to them.

    Attributes:
        table: what the checkpoint says of its parts, in the first process, when all parts are durable.
    """

    def __init__(self, folder: Path, name: str, rank: int, places: Mapping[str, Place]) -> None:
        self._draft, self._target, self._rank, self._places = folder / f".{name}.tmp", folder / name, rank, places
        self.table: dict[str, Any] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None: ...

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._draft.mkdir(parents=True, exist_ok=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        held = {self._key(item.index): planner.resolve_data(item) for item in plan.items}
        done = torch.futures.Future[list[WriteResult]]()
        path, about = self._draft / part_name(self._rank), None
        if held:
            write_atomically(path, lambda stream: torch.save(held, stream))
            about = {"number": self._rank, "size": path.stat().st_size, "digest": digest(path)}
        done.set_result([WriteResult(item.index, 0, about) for item in plan.items])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """All parts are durable: rename the folder.

        Raises:
            OSError: another process's part is not in it.
        """
        files = {one.storage_data["number"]: one.storage_data for each in results for one in each}
        for number in files:
            if not (path := self._draft / part_name(number)).is_file():
                raise OSError(errno.ENOENT, "is not there: the machines of a run need a common file system", str(path))
        lie_in = {self._key(one.index): one.storage_data["number"] for each in results for one in each}
        tensors = []
        for name, place in self._places.items():
            stored = metadata.state_dict_metadata[name]
            assert isinstance(stored, TensorStorageMetadata)
            pieces = [
                {
                    "file": lie_in[self._key(MetadataIndex(name, piece.offsets))],
                    "offsets": list(piece.offsets),
                    "sizes": list(piece.sizes),
                }
                for piece in stored.chunks
            ]
            dtype = str(stored.properties.dtype).removeprefix("torch.")
            tensors.append({"place": list(place), "shape": list(stored.size), "dtype": dtype, "pieces": pieces})
        self.table = {
            "folder": self._target.name,
            "files": [files[number] for number in sorted(files)],
            "tensors": tensors,
        }
        self._draft.replace(self._target)
        sync_folder(self._target.parent)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def _key(self, index: MetadataIndex) -> str:
        return piece_key(self._places[index.fqn], index.offset or ())


def _cause(error: Exception | CheckpointException) -> Exception:
    """The error of a process, which torch collects from all of them."""
    if isinstance(error, CheckpointException):
        found = next((one for one, _ in error.failures.values()), error)
        return found if isinstance(found, OSError) else RuntimeError(" ".join(str(found).split())[:LONGEST])
    return error
