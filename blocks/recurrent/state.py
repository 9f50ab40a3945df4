"""What a recurrent mixer remembers between steps of decoding."""

from torch import Tensor


class RecurrentState:
    """Tensors that stay as large as they are, however long the text.

    Attributes:
        memory: (B, H, K, V), what the recurrence has written.
        recent: (B, kernel - 1, C), what a short convolution still looks at.
    """

    def __init__(self) -> None:
        self.memory: Tensor | None = None
        self.recent: Tensor | None = None

    def reorder(self, rows: Tensor) -> None:
        if self.memory is not None:
            self.memory = self.memory[rows]
        if self.recent is not None:
            self.recent = self.recent[rows]
