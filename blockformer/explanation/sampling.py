"""What is kept of large values: some tokens, heads and channels, chosen evenly; what is kept is exact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

FIRST_TOKENS = 8
"""Of a long text, its first tokens are kept, and as many of its last as there is room for."""
TOKENS, HEADS = ("token", "key", "row"), ("head", "kv_head", "expert", "choice")


@dataclass(frozen=True)
class Limits:
    """The most that is kept of each axis.

    Attributes:
        tokens: of the text, and rows of experts.
        heads: and experts.
        channels: of vectors, hidden units and states.
        vocabulary: token ids, the most probable ones.
        layers: of a stack.
    """

    tokens: int = 48
    heads: int = 16
    channels: int = 48
    vocabulary: int = 32
    layers: int = 24

    def of(self, axis: str) -> int:
        """The most that is kept of an axis."""
        if axis in TOKENS:
            return self.tokens
        if axis == "vocabulary":
            return self.vocabulary
        return self.heads if axis in HEADS else self.channels

    def tighter(self) -> "Limits | None":
        """The next smaller limits; None: there are none."""
        if self.channels > 24 or self.tokens > 24:
            return replace(self, channels=min(self.channels, 24), tokens=max(24, self.tokens * 3 // 4))
        if self.channels > 12 or self.heads > 8 or self.tokens > 16:
            return replace(self, channels=12, heads=min(self.heads, 8), tokens=min(self.tokens, 16))
        return replace(self, layers=max(2, self.layers // 2)) if self.layers > 2 else None


@dataclass(frozen=True)
class Value:
    """Some of the numbers of a tensor, and which.

    Attributes:
        axes: meaning of each axis.
        shape: of the whole tensor.
        index: for each axis, the places that are kept, ascending but for token ids.
        data: the numbers that are kept, float32.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    index: tuple[tuple[int, ...], ...]
    data: Tensor = field(compare=False, repr=False)

    @property
    def whole(self) -> bool:
        """Whether all numbers are kept."""
        return self.data.numel() == torch.Size(self.shape).numel()

    def within(self, limits: Limits) -> "Value":
        """A copy within smaller limits."""
        data, index = self.data, list(self.index)
        for at, axis in enumerate(self.axes):
            if len(index[at]) > limits.of(axis):
                kept = chosen(len(index[at]), axis, limits)
                data = data.index_select(at, torch.tensor(kept))
                index[at] = tuple(index[at][place] for place in kept)
        return replace(self, data=data, index=tuple(index))


def chosen(size: int, axis: str, limits: Limits) -> list[int]:
    """The places of an axis that are kept."""
    most = limits.of(axis)
    if size <= most:
        return list(range(size))
    if axis in TOKENS:
        first = min(FIRST_TOKENS, most // 2)
        return [*range(first), *range(size - most + first, size)]
    if axis == "vocabulary":
        return list(range(most))
    return sorted({round(number * (size - 1) / max(1, most - 1)) for number in range(most)})


def sampled(
    value: Tensor, axes: Sequence[str], limits: Limits, given: Mapping[str, Sequence[int]] | None = None
) -> Value:
    """Keep some of a tensor.

    Args:
        value: any tensor with the axes.
        axes: meaning of each axis.
        limits: the most that is kept of each.
        given: the places to keep, by axis.
    """
    index: list[tuple[int, ...]] = []
    data = value.detach()
    for at, axis in enumerate(axes):
        places = list((given or {}).get(axis, ())) or chosen(value.shape[at], axis, limits)
        if places != list(range(value.shape[at])):
            data = data.index_select(at, torch.tensor(places, device=data.device))
        index.append(tuple(places))
    return Value(tuple(axes), tuple(value.shape), tuple(index), data.float().cpu().clone())
