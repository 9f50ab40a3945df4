"""The learned scale and shift after a normalisation."""

from torch import Tensor

from blocks.base import Axis, Channels


def affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """X * weight + bias; None: left out. Both broadcast, so that each head can have its own."""
    y = x if weight is None else x * weight.expand_as(x)
    return y if bias is None else y + bias.expand_as(x)


def channel_axes(weight: Tensor | None, offset: float) -> tuple[Axis | None, ...]:
    """Axes of a weight (..., D) to which ``offset`` is added."""
    return () if weight is None else (*(None,) * (weight.ndim - 1), Channels(weight.shape[-1], offset=offset))
