"""How the tensors of two layouts turn into one another: transposed, stacked, and split into interleaved groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How one stored tensor holds one or several parameters.

    Attributes:
        transpose: matrices are stored (in, out).
        groups: the split axis holds so many groups, each with its share of every parameter; 1: one after another.
        axis: the axis that is split.
        reshape: shape in which it is stored, if that is not the parameter's (-1: what is left); None: the same.
    """

    transpose: bool = False
    groups: int = 1
    axis: int = 0
    reshape: tuple[int, ...] | None = None

    def split(self, stored: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """The parameters of these shapes in a stored tensor.

        Raises:
            ValueError: the sizes do not fit.
        """
        tensor = stored.mT if self.transpose and stored.ndim > 1 else stored
        if len(shapes) == 1:
            return [self._shaped(tensor, shapes[0])]
        sizes = [shape[self.axis] for shape in shapes]
        _check(tensor.shape[self.axis], sizes, self.groups)
        parts = torch.split(self._grouped(tensor), [size // self.groups for size in sizes], dim=self.axis + 1)
        flat = [torch.flatten(part, self.axis, self.axis + 1) for part in parts]
        return [self._shaped(part, shape) for part, shape in zip(flat, shapes, strict=True)]

    def joined(self, parameters: Sequence[Tensor]) -> Tensor:
        """The stored tensor that holds these parameters; the inverse of :meth:`split`."""
        tensor = parameters[0]
        if len(parameters) > 1:
            grouped = [self._grouped(parameter) for parameter in parameters]
            tensor = torch.flatten(torch.cat(grouped, dim=self.axis + 1), self.axis, self.axis + 1)
        if self.reshape is not None:
            tensor = tensor.reshape(self.reshape)
        return tensor.mT if self.transpose and tensor.ndim > 1 else tensor

    def _grouped(self, tensor: Tensor) -> Tensor:
        before, after = tensor.shape[: self.axis], tensor.shape[self.axis + 1 :]
        return tensor.reshape(*before, self.groups, -1, *after)

    def _shaped(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        if self.reshape is not None and tensor.numel() == prod(shape):
            tensor = tensor.reshape(tuple(shape))
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"has the shape {tuple(tensor.shape)}, but {tuple(shape)} is needed")
        return tensor


def _check(size: int, sizes: Sequence[int], groups: int) -> None:
    if size != sum(sizes):
        raise ValueError(f"has {size} rows to split, but {' + '.join(map(str, sizes))} are needed")
    if uneven := [part for part in sizes if part % groups]:
        raise ValueError(f"{uneven[0]} rows do not divide into {groups} groups")
