"""A change of the shape and the order of axes, in the notation of einops: ``(expert f) d -> expert d f``."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

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
