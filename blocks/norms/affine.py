"""The learned scale and shift after a normalisation."""

from torch import Tensor

from blocks.base import Axis, Channels


def affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """X * weight + bias, where each may be absent; both broadcast, so that every head can have its own."""
    y = x if weight is None else x * weight.expand_as(x)
    return y if bias is None else y + bias.expand_as(x)


def channel_axes(weight: Tensor | None, offset: float) -> tuple[Axis | None, ...]:
    """The axes of a weight (..., D) that counts from ``offset``."""
    return () if weight is None else (*(None,) * (weight.ndim - 1), Channels(weight.shape[-1], offset=offset))
