"""In what layout a stored tensor holds one or several parameters; axes are rearranged in the notation of einops."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

_SIDE = re.compile(r"\s*(?:(?:\w+|\([\w\s]*\))\s*)+")
_GROUP = re.compile(r"\w+|\([\w\s]*\)")

Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Rearrangement:
    """How the axes of a stored tensor become those of the tensor that is transposed and split.

    Attributes:
        text: the notation: on both sides the same axes, ``(a b)`` for one axis that holds two, ``1`` for one of size 1.
        sizes: of axes that the shapes do not determine.
    """

    text: str
    sizes: Mapping[str, int] = field(hash=False)

    def __post_init__(self) -> None:
        before, after = (sorted(name for group in side for name in group) for side in self._sides)
        if before != after or len(set(before)) != len(before):
            raise ValueError(f"{self.text!r} must name the same axes on both sides, each once")
        if unknown := sorted(set(self.sizes) - set(before)):
            raise ValueError(f"sizes has {unknown[0]!r}, which is no axis of {self.text!r}")

    @property
    def _sides(self) -> tuple[Groups, Groups]:
        parts = self.text.split("->")
        if len(parts) != 2 or not all(map(_SIDE.fullmatch, parts)):
            raise ValueError(f"{self.text!r} is not of the form '(expert f) d -> expert d f'")
        before, after = (tuple(map(_axes, _GROUP.findall(part))) for part in parts)
        return before, after

    def apply(self, stored: Tensor, shape: Sequence[int]) -> Tensor:
        """A stored tensor with the axes of the right side.

        Args:
            stored: the tensor.
            shape: that of the result.

        Raises:
            ValueError: the shapes do not fit, or do not determine a size.
        """
        before, after = self._sides
        sizes = self._solve([(before, stored.shape), (after, shape)])
        return _moved(stored, before, after, sizes)

    def undo(self, tensor: Tensor) -> Tensor:
        """The stored tensor; the inverse of :meth:`apply`.

        Raises:
            ValueError: the shape does not fit, or does not determine a size.
        """
        before, after = self._sides
        return _moved(tensor, after, before, self._solve([(after, tensor.shape)]))

    def _solve(self, sides: Sequence[tuple[Groups, Sequence[int]]]) -> dict[str, int]:
        """The size of every axis."""
        for groups, shape in sides:
            if len(groups) != len(shape):
                raise ValueError(f"has shape {tuple(shape)}; {self.text!r} needs {len(groups)} axes there")
        sizes = dict(self.sizes)
        pairs = [pair for groups, shape in sides for pair in zip(groups, shape, strict=True)]
        for _ in pairs:  # each pass determines the last unknown size of a group at least
            for group, size in pairs:
                unknown = [name for name in group if name not in sizes]
                known = prod(sizes[name] for name in group if name in sizes)
                if (not unknown and known != size) or size % max(known, 1):
                    raise ValueError(f"has size {size} where {self.text!r} has ({' '.join(group)}), of {known}")
                if len(unknown) == 1:
                    sizes[unknown[0]] = size // known
        for group, _ in pairs:
            if unknown := [name for name in group if name not in sizes]:
                raise ValueError(f"{self.text!r} leaves the size of {unknown[0]!r} open: add it to sizes")
        return sizes


def _axes(group: str) -> tuple[str, ...]:
    return tuple(name for name in group.strip("()").split() if name != "1")


def _moved(tensor: Tensor, before: Groups, after: Groups, sizes: Mapping[str, int]) -> Tensor:
    flat, order = _flat(before), _flat(after)
    single = tensor.reshape([sizes[name] for name in flat]).permute([flat.index(name) for name in order])
    return single.reshape([prod(sizes[name] for name in group) for group in after])


def _flat(groups: Iterable[Sequence[str]]) -> list[str]:
    return [name for group in groups for name in group]


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
