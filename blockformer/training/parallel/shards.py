"""The part of each parameter that a process holds, and how parts are gathered."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from blockformer.assembly.checkpoint_parts import StoredTensor

DATA, TENSOR = "data_parallel", "tensor_parallel"


@dataclass(frozen=True)
class Part:
    """What a process has of a tensor: its values, the shape of the whole tensor, and where they begin in it."""

    tensor: Tensor
    shape: tuple[int, ...]
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, whole: Tensor) -> "Part":
        """A whole tensor as its only part."""
        return cls(whole, tuple(whole.shape), (0,) * whole.ndim)


class Shards:
    """How the parameters of one model are sharded.

    Tensor parallelism splits some parameters along one axis; each process of a tensor group holds one part as a plain
    tensor. FSDP2 may shard the rest over the processes of a data group, as DTensors. Tensors of the same shape, such as
    the optimizer's moments, are sharded like their parameters.

    Args:
        mesh: the device mesh with a data-parallel and a tensor-parallel axis.
        cuts: by parameter name: the axis along which tensor parallelism splits it.
        partial: names of unsplit parameters whose gradients must be summed over the tensor group.
    """

    def __init__(self, mesh: DeviceMesh, cuts: Mapping[str, int], partial: frozenset[str] = frozenset()) -> None:
        self.data, self.tensor = mesh[DATA], mesh[TENSOR]
        self.cuts, self.partial = cuts, partial

    def part(self, name: str, whole: Tensor, like: Tensor) -> Tensor:
        """This process's part of a whole tensor.

        Args:
            name: name of the parameter that the tensor is, or belongs to.
            whole: the tensor; of a stored one only this part is read.
            like: the parameter in this process, for its device and its FSDP2 placement.
        """
        if isinstance(whole, StoredTensor):
            return self._stored_part(name, whole, like)
        piece = whole
        if name in self.cuts:
            piece = whole.chunk(self.tensor.size(), self.cuts[name])[self.tensor.get_local_rank()]
        piece = piece.to(like.device).contiguous()
        if not isinstance(like, DTensor):
            return piece
        return distribute_tensor(piece, like.device_mesh, like.placements, src_data_rank=None)

    def _stored_part(self, name: str, whole: StoredTensor, like: Tensor) -> Tensor:
        offsets, sizes = self._region(name, whole.shape, like)
        piece = whole.read(offsets, sizes).to(like.device)
        if not isinstance(like, DTensor):
            return piece
        shape = list(whole.shape)
        if name in self.cuts:
            shape[self.cuts[name]] //= self.tensor.size()
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(piece, like.device_mesh, like.placements, shape=torch.Size(shape), stride=stride)

    def _region(self, name: str, shape: Sequence[int], like: Tensor) -> tuple[list[int], list[int]]:
        """Where this process's part of a tensor begins along each axis, and its shape."""
        offsets, sizes = [0] * len(shape), list(shape)

        def cut(axis: int, mesh: DeviceMesh, dimension: int = 0) -> None:
            each = -(-sizes[axis] // mesh.size(dimension))
            before = min(each * mesh.get_local_rank(dimension), sizes[axis])
            offsets[axis], sizes[axis] = offsets[axis] + before, min(each, sizes[axis] - before)

        if name in self.cuts:
            cut(self.cuts[name], self.tensor)
        if isinstance(like, DTensor):
            for dimension, placement in enumerate(like.placements):
                if isinstance(placement, Shard):
                    cut(placement.dim, like.device_mesh, dimension)
        return offsets, sizes

    def place(self, name: str, part: Tensor) -> Part:
        """This process's part of a tensor with its place in the whole tensor; nothing is gathered."""
        shape = list(part.shape)
        if name in self.cuts:
            shape[self.cuts[name]] *= self.tensor.size()
        offsets, _ = self._region(name, shape, part)
        return Part(local(part.detach()), tuple(shape), tuple(offsets))

    def whole(self, name: str, part: Tensor) -> Tensor:
        """Gather the tensor that :meth:`part` split; a collective, so every process must call it."""
        tensor = part.full_tensor() if isinstance(part, DTensor) else part
        if name not in self.cuts:
            return tensor
        pieces = [torch.empty_like(tensor) for _ in range(self.tensor.size())]
        dist.all_gather(pieces, tensor.detach().contiguous(), group=self.tensor.get_group())
        return torch.cat(pieces, self.cuts[name])

    def add_partial(self, model: nn.Module) -> None:
        """Sum the gradients of ``partial`` parameters over the tensor group, once per step."""
        for name, parameter in model.named_parameters():
            if name in self.partial and parameter.grad is not None:
                dist.all_reduce(local(parameter.grad), group=self.tensor.get_group())

    def norm(self, model: nn.Module) -> Tensor:
        """Euclidean norm of the gradients of the whole model; a collective, so every process must call it."""
        by_copies: dict[int, list[Tensor]] = {}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                by_copies.setdefault(self.copies(name, parameter), []).append(local(parameter.grad))
        squares = [torch.nn.utils.get_total_norm(part).square() / copies for copies, part in by_copies.items()]
        total = torch.stack(squares).sum()
        dist.all_reduce(total)
        return total.sqrt()

    def copies(self, name: str, parameter: Tensor) -> int:
        """Number of processes that hold a copy of each element of a parameter, or of a tensor that belongs to it."""
        by_data = _copies(parameter) if isinstance(parameter, DTensor) else self.data.size()
        return by_data * (1 if name in self.cuts else self.tensor.size())


def _copies(tensor: DTensor) -> int:
    """Number of processes of its mesh that hold a copy of each element: with hybrid sharding more than one."""
    sizes = zip(tensor.device_mesh.shape, tensor.placements, strict=True)
    return math.prod(size for size, placement in sizes if placement.is_replicate())


def local(tensor: Tensor) -> Tensor:
    """The local part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_gradients(model: nn.Module) -> Iterator[Tensor]:
    """The local parts of all gradients."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            yield local(parameter.grad)
