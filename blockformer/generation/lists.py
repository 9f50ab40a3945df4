"""Small tensors as plain lists of a known type."""

from typing import cast

from torch import Tensor


def integers(tensor: Tensor) -> list[int]:
    """The integers of a tensor (N,)."""
    return cast("list[int]", tensor.tolist())


def numbers(tensor: Tensor) -> list[float]:
    """The numbers of a tensor (N,)."""
    return cast("list[float]", tensor.tolist())
