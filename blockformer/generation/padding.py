"""Texts of different lengths side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_left(rows: Sequence[Sequence[int]], device: torch.device | None = None) -> tuple[Tensor, Tensor | None]:
    """Put rows of token ids into one tensor, aligned at their ends, so that all continue at the same place.

    Args:
        rows: B rows of at least one id each.
        device: where the tensors are to be.

    Returns:
        (B, T) ids, 0 where there is none, and the (B, T) bool mask that is False there; None if all are of one length.

    Raises:
        ValueError: there is no row, or an empty one.
    """
    if not rows or not all(rows):
        raise ValueError("there is nothing to start from: each row needs at least one token, such as a start token")
    width = max(map(len, rows))
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    for row, ids in zip(tokens, rows, strict=True):
        row[width - len(ids) :] = torch.tensor(ids)
    if all(len(ids) == width for ids in rows):
        return tokens.to(device), None
    lengths = torch.tensor([len(ids) for ids in rows])
    mask = torch.arange(width) >= width - lengths[:, None]
    return tokens.to(device), mask.to(device)
