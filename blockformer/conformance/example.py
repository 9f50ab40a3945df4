"""What a block is run on."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blockformer.conformance.subject import DIM, MEMORY_DIM, VOCABULARY, Subject


@dataclass(frozen=True)
class Example:
    """Inputs of one call; ``None`` where nothing is said.

    Attributes:
        x: (B, T, D) vectors, or (B, T) ids for what reads ids.
        mask: (B, T) bool, False for padding.
        documents: (B, T) int.
        memory: (B, S, D) output of an encoder; for a whole model (B, S) ids of the source.
        memory_mask: (B, S) bool.
        positions: (1, T) int.
    """

    x: Tensor
    mask: Tensor | None = None
    documents: Tensor | None = None
    memory: Tensor | None = None
    memory_mask: Tensor | None = None
    positions: Tensor | None = None

    def rows(self, index: list[int] | slice) -> "Example":
        """Some rows of the batch."""
        return self._each(lambda tensor: tensor[index], memory=True)

    def span(self, start: int, stop: int) -> "Example":
        """Some tokens of every row; the memory stays whole."""
        return self._each(lambda tensor: tensor[:, start:stop], memory=False)

    def with_tail(self, start: int, other: "Example") -> "Example":
        """The same with the tokens from ``start`` on taken from another example."""
        return replace(self, x=torch.cat([self.x[:, :start], other.x[:, start:]], dim=1))

    def padded(self, left: int, right: int, other: "Example") -> "Example":
        """The same with padding on both sides, filled from another example, and masked."""
        length = self.x.shape[1]
        x = torch.cat([other.x[:, :left], self.x, other.x[:, left : left + right]], dim=1)
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[:, left : left + length] = True
        return replace(self, x=x, mask=mask)

    def _each(self, change: Callable[[Tensor], Tensor], memory: bool) -> "Example":
        def maybe(tensor: Tensor | None, apply: bool = True) -> Tensor | None:
            return change(tensor) if tensor is not None and apply else tensor

        return Example(
            change(self.x),
            maybe(self.mask),
            maybe(self.documents),
            maybe(self.memory, memory),
            maybe(self.memory_mask, memory),
        )


def example(
    subject: Subject,
    *,
    seed: int = 0,
    batch: int = 2,
    length: int = 5,
    memory_length: int = 4,
    dtype: torch.dtype = torch.float64,
) -> Example:
    """Random inputs of the right kind."""
    generator = torch.Generator().manual_seed(seed)

    def ids(time: int) -> Tensor:
        return torch.randint(VOCABULARY, (batch, time), generator=generator)

    def vectors(time: int, width: int) -> Tensor:
        return torch.randn(batch, time, width, generator=generator, dtype=torch.float64).to(dtype)

    x = ids(length) if subject.reads_ids else vectors(length, DIM)
    if not looks_at_memory(subject):
        return Example(x)
    return Example(x, memory=ids(memory_length) if subject.slot == "model" else vectors(memory_length, MEMORY_DIM))


def restart_chance(seed: int = 0) -> None:
    """Start torch's own generator, from which dropout draws, anew."""
    torch.default_generator.manual_seed(seed)


def memory_of(given: Example) -> Tensor:
    """The encoder's output of an example that has one."""
    if given.memory is None:
        raise TypeError("this example has no memory")
    return given.memory


def looks_at_memory(subject: Subject) -> bool:
    """Whether an encoder's output is among the inputs."""
    return subject.place == "cross" and subject.slot in ("mixer", "layer", "stack", "model")
