"""What decoding remembers between steps."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor


class State(Protocol):
    """What one mixer remembers: it can follow a beam search by choosing rows."""

    def reorder(self, rows: Tensor) -> None:
        """Keep the batch rows ``rows`` (N,), in this order."""
        ...


S = TypeVar("S", bound=State)


class KeyValues:
    """Keys and values of the tokens so far, (B, G, S, K), in buffers that double when full."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, G, T, K) and return all so far."""
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
    """What a model remembers of the tokens it has seen: the states of every layer, and which tokens were padding."""

    def __init__(self, depth: int) -> None:
        self.layers: list[dict[str, State]] = [{} for _ in range(depth)]
        self.length = 0
        self.attention_mask: Tensor | None = None

    def state(self, layer: int, name: str, make: Callable[[], S]) -> S:
        """The state that the mixer ``name`` of a layer keeps, made on first use."""
        return self.layers[layer].setdefault(name, make())  # pyright: ignore[reportReturnType]

    def extend_mask(self, mask: Tensor | None, batch: int, length: int, device: torch.device) -> Tensor | None:
        """Add the mask (B, T) of ``length`` new tokens; return that (B, S) of all, None while nothing is padding."""
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
        """Keep the batch rows ``rows`` (N,), in this order, everywhere."""
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask[rows]
        for states in self.layers:
            for state in states.values():
                state.reorder(rows)
