"""Which part of every parameter a process holds, and how the parts become whole again."""

from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

DATA, TENSOR = "data_parallel", "tensor_parallel"


class Shards:
    """The parts of one model.

    Tensor parallelism has cut some parameters along one axis, each process of a tensor group holding one part as an
    ordinary tensor; FSDP2 may have divided what is left among the processes of a data group, as DTensors. Parameters
    and whatever has their shape, such as the optimizer's moments, are divided alike.

    Args:
        mesh: processes, by data group and tensor group.
        cuts: the axis along which tensor parallelism has cut a parameter, by its name.
        partial: names of uncut parameters whose gradients are still to be added up over the tensor group.
    """

    def __init__(self, mesh: DeviceMesh, cuts: Mapping[str, int], partial: frozenset[str] = frozenset()) -> None:
        self.data, self.tensor = mesh[DATA], mesh[TENSOR]
        self.cuts, self.partial = cuts, partial

    def part(self, name: str, whole: Tensor, like: Tensor) -> Tensor:
        """What this process holds of a whole tensor.

        Args:
            name: of the parameter that the tensor is, or belongs to.
            whole: the tensor.
            like: the parameter here, for its device and its division by FSDP2.
        """
        piece = whole
        if name in self.cuts:
            piece = whole.chunk(self.tensor.size(), self.cuts[name])[self.tensor.get_local_rank()]
        piece = piece.to(like.device).contiguous()
        if not isinstance(like, DTensor):
            return piece
        return distribute_tensor(piece, like.device_mesh, like.placements, src_data_rank=None)

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The tensor that :meth:`part` divided; every process must ask for it."""
        tensor = part.full_tensor() if isinstance(part, DTensor) else part
        if name not in self.cuts:
            return tensor
        pieces = [torch.empty_like(tensor) for _ in range(self.tensor.size())]
        dist.all_gather(pieces, tensor.detach().contiguous(), group=self.tensor.get_group())
        return torch.cat(pieces, self.cuts[name])

    def add_partial(self, model: nn.Module) -> None:
        """Make the gradients of a step whole that each process has a part of."""
        for name, parameter in model.named_parameters():
            if name in self.partial and parameter.grad is not None:
                dist.all_reduce(local(parameter.grad), group=self.tensor.get_group())

    def norm(self, model: nn.Module) -> Tensor:
        """Euclidean norm of the gradients of the whole model; every process must ask for it."""
        by_copies: dict[int, list[Tensor]] = {}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                by_copies.setdefault(self._copies(name, parameter), []).append(local(parameter.grad))
        squares = [torch.nn.utils.get_total_norm(part).square() / copies for copies, part in by_copies.items()]
        total = torch.stack(squares).sum()
        dist.all_reduce(total)
        return total.sqrt()

    def _copies(self, name: str, parameter: Tensor) -> int:
        """How many processes hold each number of a parameter."""
        by_data = 1 if isinstance(parameter, DTensor) else self.data.size()
        return by_data * (1 if name in self.cuts else self.tensor.size())


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is in this process; it shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_gradients(model: nn.Module) -> Iterator[Tensor]:
    """Of every parameter that has one, the part that is in this process."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            yield local(parameter.grad)
