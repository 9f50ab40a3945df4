"""What a part of the model leaves in a forward for its auxiliary loss."""

from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Recorded(Generic[T]):
    """Values of one forward in training, taken once, for the loss.

    With activation checkpointing, a forward that is computed again comes after the loss, when nothing is recorded, so
    that nothing counts twice.

    Args:
        of: the part of the layer whose ``prepare`` begins a recording, for messages: ``feed-forward``.
    """

    def __init__(self, of: str) -> None:
        self._of = of
        self.values: list[T] | None = None  # None: not recording

    def begin(self) -> None:
        """Start recording a forward."""
        self.values = []

    def add(self, value: T) -> None:
        """Add a value, if a forward is recorded."""
        if self.values is not None:
            self.values.append(value)

    def take(self) -> list[T]:
        """Stop recording; what was recorded.

        Raises:
            RuntimeError: no forward was recorded since the last call.
        """
        if self.values is None:
            raise RuntimeError(
                "no forward was recorded: call auxiliary_loss once after each forward in training mode, and call the "
                f"{self._of}'s prepare in the layer's prepare"
            )
        values, self.values = self.values, None
        return values

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the tensors of a forward, which cannot be copied."""
        return {**self.__dict__, "values": None}
