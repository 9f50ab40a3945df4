"""The cache of incremental decoding."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor


class State(Protocol):
    """The cached state of one mixer."""

    def reorder(self, rows: Tensor) -> None:
        """Select the batch rows ``rows`` (N,), in this order, as beam search does."""
        ...


S = TypeVar("S", bound=State)


class KeyValues:
    """Keys and values (B, G, S, K) of the tokens so far, in buffers that double when full."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, G, T, K) and return all, (B, G, S, K)."""
        end = self.length + keys.shape[2]
        self.keys = self._room(self.keys, keys, end)
        self.values = self._room(self.values, values, end)
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reorder(self, rows: Tensor) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]

    def _room(self, buffer: Tensor | None, new: Tensor, end: int) -> Tensor:
        if buffer is not None and buffer.shape[2] >= end:
            return buffer
        larger = new.new_empty(*new.shape[:2], max(2 * self.length, end), new.shape[3])
        if buffer is not None:
            larger[:, :, : self.length] = buffer[:, :, : self.length]
        return larger


class Cache:
    """The cached states of all layers and the padding mask of the tokens so far."""

    def __init__(self, depth: int) -> None:
        self.layers: list[dict[str, State]] = [{} for _ in range(depth)]
        self.length = 0
        self.attention_mask: Tensor | None = None

    def state(self, layer: int, name: str, make: Callable[[], S]) -> S:
        """The state ``name`` of a layer, created on first use."""
        return self.layers[layer].setdefault(name, make())  # pyright: ignore[reportReturnType]

    def extend_mask(self, mask: Tensor | None, batch: int, length: int, device: torch.device) -> Tensor | None:
        """Append the mask (B, T) of ``length`` new tokens; return that of all, (B, S), or None without padding."""
        if mask is None and self.attention_mask is None:
            return None
        before = self.attention_mask
        if before is None:
            before = torch.ones(batch, self.length, dtype=torch.bool, device=device)
        if mask is None:
            mask = torch.ones(batch, length, dtype=torch.bool, device=device)
        self.attention_mask = torch.cat([before, mask], dim=1)
        return self.attention_mask

    def reorder(self, rows: Tensor) -> None:
        """Select the batch rows ``rows`` (N,), in this order, in all states."""
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask[rows]
        for states in self.layers:
            for state in states.values():
                state.reorder(rows)
