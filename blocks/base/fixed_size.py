"""The next token's place in cached buffers of fixed size, as tensors, so that each decoding step is one program."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class FixedSize:
    """One token of each row is decoded at a time, into the same column of all rows.

    Attributes:
        at: (1,) int, the column.
        positions: (B, 1) int, the tokens' positions in their texts, padding not counted, up to ``last``.
        tokens: (B or 1, S) bool over all columns, False for padding before the prompts.
        last: the last position that the model can read; a row that has ended stays there.
    """

    at: Tensor
    positions: Tensor
    tokens: Tensor
    last: int

    @classmethod
    def after(
        cls, length: int, mask: Tensor | None, *, capacity: int, last: int, batch: int, device: torch.device
    ) -> "FixedSize":
        """The place after ``length`` tokens with their mask (B, ``length``), in buffers of ``capacity`` columns.

        Raises:
            ValueError: there is no column left.
        """
        if length >= capacity:
            raise ValueError(f"{length} cached tokens leave no place in a cache for {capacity}")
        tokens = torch.ones(1 if mask is None else batch, capacity, dtype=torch.bool, device=device)
        positions = torch.full((batch, 1), length, device=device)
        if mask is not None:
            tokens[:, :length] = mask
            positions = mask.sum(dim=1, keepdim=True)
        return cls(torch.tensor([length], device=device), positions.clamp(max=last), tokens, last)

    @property
    def capacity(self) -> int:
        """S, the number of columns."""
        return self.tokens.shape[1]

    def visible(self, window: int | None) -> Tensor:
        """(B or 1, S) bool: the columns that the token sees, up to its own, of a window the last ones."""
        index = torch.arange(self.capacity, device=self.at.device)
        seen = index <= self.at
        if window is not None:
            seen = seen & (index > self.at - window)
        return self.tokens & seen

    def advance(self) -> None:
        """Go to the next column."""
        self.at += 1
        self.positions.add_(1).clamp_(max=self.last)
