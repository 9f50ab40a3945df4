"""Reject inputs that a block does not support."""

from blocks.base.component import Component
from blocks.base.context import Context


def check_inputs(block: Component, context: Context) -> None:
    """Check the context against ``block.capabilities``.

    Raises:
        ValueError: the context has padding, documents, a prefix or a cache, and the block does not support it.
    """
    can, name = block.capabilities, type(block).__name__
    if not can.padding and context.attention_mask is not None:
        raise ValueError(
            f"{name} does not support padding, but attention_mask is given; give sequences of one length without it"
        )
    if not can.documents and context.documents is not None:
        raise ValueError(f"{name} does not support packed documents, but documents is given; give one document per row")
    if not can.prefix and context.prefix is not None and block.is_causal:
        raise ValueError(f"{name} does not support a bidirectional prefix, but prefix is given; leave it out")
    if not can.cache and context.cache is not None:
        raise ValueError(f"{name} does not support decoding with a cache; decode without it")
