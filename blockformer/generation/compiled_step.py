"""One decoding step as a compiled program."""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from blocks.base import Cache
from blocks.models.base import Model
from blocks.models.decoder_only import DecoderOnly
from blocks.models.encoder_decoder import EncoderDecoder


def step(
    model: Model, tokens: Tensor, cache: Cache, memory: Tensor | None = None, source_mask: Tensor | None = None
) -> Tensor:
    """Logits (N, V) of the tokens after ``tokens`` (N, 1), which continue those in a cache of fixed size."""
    if memory is None:
        return cast("DecoderOnly", model)(tokens, cache=cache)[:, -1]
    return cast("EncoderDecoder", model).decode(tokens, memory, source_mask, None, cache)[:, -1]


@cache
def compiled_step() -> Callable[..., Tensor]:
    """:func:`step`, compiled on its first call for a model, a number of rows and a capacity of the cache."""
    return cast("Any", torch).compile(step, dynamic=False)
