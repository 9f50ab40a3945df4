"""The cache of incremental decoding."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from blocks.base.fixed_size import FixedSize
from blocks.base.key_values import KeyValues


class State(Protocol):
    """The cached state of one mixer."""

    def reorder(self, rows: Tensor) -> None:
        """Select the batch rows ``rows`` (N,), in this order, as beam search does."""
        ...


@runtime_checkable
class Restorable(Protocol):
    """A state that can go back to an earlier one, which speculative decoding needs."""

    def mark(self) -> Any:
        """What :meth:`restore` needs to come back to now; it copies no tensors."""
        ...

    def restore(self, mark: Any, kept: int = 0) -> None:
        """Go back to a mark, but keep the first ``kept`` tokens after it, where :attr:`keeps` says so."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether :meth:`restore` can keep tokens after the mark."""
        ...


S = TypeVar("S", bound=State)


class Mark(NamedTuple):
    """A place in the history of a cache.

    Attributes:
        length: number of tokens.
        attention_mask: the mask of them.
        states: the mark of every state, by layer and name.
    """

    length: int
    attention_mask: Tensor | None
    states: Sequence[dict[str, Any]]


class Cache:
    """The cached states of all layers and the padding mask of the tokens so far.

    Args:
        depth: number of layers.
        windowed: drop keys that a window hides from all later queries.

    Attributes:
        layers: the states of each layer, by name.
        length: number of tokens so far.
        attention_mask: (B, S) bool, False for padding; None: no padding.
        fixed: the place of the next token in buffers of fixed size; None: buffers that grow.
    """

    def __init__(self, depth: int, *, windowed: bool = True) -> None:
        self.layers: list[dict[str, State]] = [{} for _ in range(depth)]
        self.windowed = windowed
        self.length = 0
        self.attention_mask: Tensor | None = None
        self.fixed: FixedSize | None = None

    def state(self, layer: int, name: str, make: Callable[[], S]) -> S:
        """The state ``name`` of a layer, created on first use."""
        states = self.layers[layer]
        if name not in states:
            states[name] = make()
        return states[name]  # pyright: ignore[reportReturnType]

    def advance(self, tokens: int) -> None:
        """Count tokens that all layers have cached; a model calls it at the end of a forward."""
        if self.fixed is None:
            self.length += tokens
        else:
            self.fixed.advance()

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

    def mark(self) -> Mark:
        """The present place, for :meth:`restore`.

        Raises:
            ValueError: a state cannot go back.
        """
        marks: list[dict[str, Any]] = []
        for states in self.layers:
            marks.append({})
            for name, state in states.items():
                if not isinstance(state, Restorable):
                    raise ValueError(f"the cached {type(state).__name__} cannot go back: it has no mark and restore")
                marks[-1][name] = state.mark()
        return Mark(self.length, self.attention_mask, marks)

    def restore(self, mark: Mark, kept: int = 0) -> int:
        """Forget the tokens after a mark but the first ``kept``, or all of them if a state cannot keep any.

        Returns:
            How many are kept, ``kept`` or 0.
        """
        pairs = [(states, marks) for states, marks in zip(self.layers, mark.states, strict=True)]
        for states, marks in pairs:
            for name in states.keys() - marks.keys():
                del states[name]  # made since
        found: list[tuple[Restorable, Any]] = [(states[n], m) for states, marks in pairs for n, m in marks.items()]  # pyright: ignore[reportAssignmentType]
        kept = kept if all(state.keeps for state, _ in found) else 0
        for state, one in found:
            state.restore(one, kept)
        self.length = mark.length + kept
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask[:, : self.length] if kept else mark.attention_mask
        return kept

    def fix(self, *, capacity: int, last: int, batch: int, device: torch.device) -> None:
        """From now on take one token at a time, into buffers of fixed size, so that all steps are the same program.

        Args:
            capacity: number of columns of the buffers.
            last: the last position that the model can read.
            batch: number of rows.
            device: of the buffers.
        """
        given = {"capacity": capacity, "last": last, "batch": batch}
        self.fixed = FixedSize.after(self.length, self.attention_mask, **given, device=device)
        for states in self.layers:
            for name, state in states.items():
                if isinstance(state, KeyValues) and name != "cross":  # which holds the memory and does not grow
                    state.fix(capacity, self.fixed.at)
        self.attention_mask = None
