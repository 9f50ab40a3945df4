"""The learned scale and shift after a normalisation."""

from torch import Tensor


def affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """X * weight + bias, where each may be absent; both broadcast, so that every head can have its own."""
    y = x if weight is None else x * weight
    return y if bias is None else y + bias
