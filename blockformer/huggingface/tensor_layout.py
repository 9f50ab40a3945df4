"""In what layout a stored tensor holds one or several parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from blockformer.huggingface.rearrangement import Rearrangement


@dataclass(frozen=True)
class Layout:
    """How one stored tensor holds one or several parameters.

    The import takes these steps in this order, the export their inverses in the reverse order:

    1. ``reshape``: the stored shape is checked, and the tensor is viewed in the shape that the next steps need; or
       ``rearrange``, which changes the order of axes as well;
    2. ``transpose``: the last two axes are swapped;
    3. the tensor is split along ``axis`` in ``groups``;
    4. each parameter is multiplied by ``times``.

    Attributes:
        transpose: matrices are stored as (in, out).
        groups: number of groups along the split axis, each with an equal share of every parameter; 1: the parameters
            follow one another.
        axis: the axis that is split, after the transposition.
        reshape: the stored shape, where it differs from that of the parameters side by side (-1: the remaining size);
            None: the same.
        rearrange: the order of axes in the stored tensor; None: that of the parameters.
        times: each parameter is the stored tensor times this number.
    """

    transpose: bool = False
    groups: int = 1
    axis: int = 0
    reshape: tuple[int, ...] | None = None
    rearrange: Rearrangement | None = None
    times: float = 1.0

    def split(self, stored: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """The parameters in a stored tensor.

        Raises:
            ValueError: the sizes do not match.
        """
        whole = self._whole(shapes)
        swapped = self.transpose and len(whole) > 1
        wanted = (*whole[:-2], *reversed(whole[-2:])) if swapped else whole
        tensor = self._viewed(stored, wanted, shapes)
        tensor = tensor.mT if swapped else tensor
        if len(shapes) > 1:
            sizes = [shape[self.axis] // self.groups for shape in shapes]
            parts = torch.split(self._grouped(tensor), sizes, dim=self.axis + 1)
            tensors = [torch.flatten(part, self.axis, self.axis + 1) for part in parts]
        else:
            tensors = [tensor]
        return tensors if self.times == 1.0 else [part * self.times for part in tensors]

    def join(self, parameters: Sequence[Tensor]) -> Tensor:
        """The stored tensor that holds these parameters; the inverse of :meth:`split`."""
        if self.times != 1.0:
            parameters = [parameter / self.times for parameter in parameters]
        tensor = parameters[0]
        if len(parameters) > 1:
            grouped = [self._grouped(parameter) for parameter in parameters]
            tensor = torch.flatten(torch.cat(grouped, dim=self.axis + 1), self.axis, self.axis + 1)
        tensor = tensor.mT if self.transpose and tensor.ndim > 1 else tensor
        if self.rearrange is not None:
            return self.rearrange.undo(tensor)
        return tensor if self.reshape is None else tensor.reshape(self.reshape)

    def _whole(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """The shape of the parameters side by side."""
        first = tuple(shapes[0])
        if len(shapes) == 1:
            return first
        if not 0 <= self.axis < len(first):
            raise ValueError(f"cannot be split along axis {self.axis}: its parameters have {len(first)} axes")
        sizes = [shape[self.axis] for shape in shapes]
        if uneven := [size for size in sizes if size % self.groups]:
            raise ValueError(f"size {uneven[0]} is not divisible by groups={self.groups}")
        wholes = {(*shape[: self.axis], sum(sizes), *shape[self.axis + 1 :]) for shape in shapes}
        if len(wholes) > 1:
            raise ValueError(f"holds parameters of shapes {', '.join(str(tuple(shape)) for shape in shapes)}")
        return wholes.pop()

    def _viewed(self, stored: Tensor, wanted: tuple[int, ...], shapes: Sequence[Sequence[int]]) -> Tensor:
        """The stored tensor in the shape that it has before it is transposed."""
        if self.rearrange is not None:
            return self.rearrange.apply(stored, wanted)
        if self.reshape is not None:
            expected = _without_rest(self.reshape, prod(wanted))
            if tuple(stored.shape) != expected:
                raise ValueError(f"has shape {tuple(stored.shape)}; expected {expected}")
            return stored.reshape(wanted)
        if tuple(stored.shape) != wanted:
            raise ValueError(self._mismatch(stored, wanted, shapes))
        return stored

    def _mismatch(self, stored: Tensor, wanted: tuple[int, ...], shapes: Sequence[Sequence[int]]) -> str:
        if len(shapes) > 1 and stored.ndim == len(wanted):
            axis = self.axis
            if self.transpose and len(wanted) > 1 and axis >= len(wanted) - 2:
                axis = 2 * len(wanted) - 3 - axis  # the other one of the last two
            if stored.shape[axis] != wanted[axis]:
                sizes = " + ".join(str(shape[self.axis]) for shape in shapes)
                return f"has size {stored.shape[axis]} on axis {axis}; expected {sizes}"
        return f"has shape {tuple(stored.shape)}; expected {wanted}"

    def _grouped(self, tensor: Tensor) -> Tensor:
        before, after = tensor.shape[: self.axis], tensor.shape[self.axis + 1 :]
        return tensor.reshape(*before, self.groups, -1, *after)


def _without_rest(reshape: Sequence[int], numel: int) -> tuple[int, ...]:
    """The shape with its -1 replaced by the remaining size.

    Raises:
        ValueError: no shape of this form has this number of elements.
    """
    known = prod(size for size in reshape if size != -1)
    shape = tuple(numel // max(known, 1) if size == -1 else size for size in reshape)
    if prod(shape) != numel:
        raise ValueError(f"cannot be {list(reshape)}: its parameters have {numel:,} elements")
    return shape
