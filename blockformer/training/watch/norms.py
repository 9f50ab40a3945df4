"""Euclidean norms of what belongs to the parameters of each place, such as their gradients."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from blockformer.assembly.checkpoint import PREFIX
from blockformer.training.parallel.shards import Shards, local
from blockformer.training.score import exact_type
from blockformer.training.watch.places import Members


def norms(members: Members, of: Callable[[str, Tensor], Tensor | None], shards: Shards | None) -> Tensor:
    """(places,) norms, of the whole tensors where each process holds a part of them.

    With shards it is a collective, so every process must call it.

    Args:
        members: the parameters of each place, by their names in the model.
        of: returns the tensor to measure for a parameter, this process's part of it; None: nothing, which counts 0.
        shards: how parameters are sharded; None: each process holds all of them.
    """
    squares: list[Tensor] = []
    for parameters in members.values():
        total = torch.zeros((), device=parameters[0][1].device, dtype=exact_type(parameters[0][1].device))
        for name, parameter in parameters:
            if (value := of(name, parameter)) is not None:
                copies = 1 if shards is None else shards.copies(PREFIX + name, parameter)
                wide = torch.promote_types(value.dtype, torch.float32)
                norm = torch.linalg.vector_norm(local(value.detach()), dtype=wide)
                total += norm.to(total.dtype).square() / copies
        squares.append(total)
    stacked = torch.stack(squares)
    if shards is not None:
        dist.all_reduce(stacked)
    return stacked.sqrt()
