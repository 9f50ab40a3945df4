"""What a block cannot be given is refused, not computed wrongly."""

from blocks.base.component import Component
from blocks.base.context import Context


def check_inputs(block: Component, context: Context) -> None:
    """Compare what comes in with what ``block.capabilities``.

    Raises:
        ValueError: there is padding, documents or a cache, and the block declares that it takes none.
    """
    can, name = block.capabilities, type(block).__name__
    if not can.padding and context.attention_mask is not None:
        raise ValueError(f"{name} takes no padding, but there is an attention_mask")
    if not can.documents and context.documents is not None:
        raise ValueError(f"{name} keeps no documents apart, but there are documents")
    if not can.cache and context.cache is not None:
        raise ValueError(f"{name} cannot be decoded from a cache, but there is one")
