"""The meaning of the axes of a value."""

from torch import Tensor

from blocks.base import Component, FeedForward, Head, Layer, Pooling, Readout, Residual
from blocks.models.base import Model


def named_axes(
    declared: tuple[str, ...], block: Component, value: Tensor, model: Model, length: int
) -> tuple[str, ...]:
    """The declared axes, with the leading axes of a norm's input and the rows of experts named."""
    if declared and declared[0] == "...":
        guessed = output_axes(block, value, model, length) if len(declared) > 1 else _leading_axes(block, value, model)
        return (*guessed[: len(guessed) - len(declared) + 1], *declared[1:])
    if isinstance(block, FeedForward) and block.site is not None and block.site.experts is not None:
        return ("row", *declared[1:])
    return declared


def _leading_axes(block: Component, value: Tensor, model: Model) -> tuple[str, ...]:
    """Of a number for each vector: (B, T), (B, T, H) or (B, T, N)."""
    return ("token",) if value.ndim < 3 else ("token", "stream" if _has_streams(block, model) else "head")


def _has_streams(block: Component, model: Model) -> bool:
    """Whether a block with four axes has vectors of residual streams, and not of heads."""
    wiring = (Layer, Readout, Residual)
    return isinstance(block, wiring) or any(
        isinstance(part, wiring) and any(child is block for child in part.children()) for part in model.modules()
    )


def output_axes(block: Component, value: Tensor, model: Model, length: int) -> tuple[str, ...]:
    """The axes of what a block returns or is given, by its slot and shape, without that of the batch.

    Args:
        block: the block.
        value: its output or input.
        model: the model.
        length: number of tokens of the text that is read.
    """
    if isinstance(block, Head):
        if block.pooled:
            return ("value",)
        return ("token", "value" if block.per_token else "vocabulary")
    if isinstance(block, Pooling):
        return ("width",)
    last = "width" if value.shape[-1] == model.dim else "unit"
    if value.ndim == 4:
        return ("token", "stream", "width") if _has_streams(block, model) else ("token", "head", "channel")
    if value.ndim == 2:  # rows of tokens, which a mixture of experts has flattened
        return ("token" if value.shape[0] == length else "row", last)
    return ("token", last) if value.ndim == 3 else tuple(f"axis {number}" for number in range(1, value.ndim))
