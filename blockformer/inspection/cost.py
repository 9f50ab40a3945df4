"""What a model costs: parameters by slot, FLOPs, and the size of the cache."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blocks.base import Cache
from blocks.models.base import Model

BYTES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Cost:
    """The figures of one model at one length.

    Attributes:
        parameters: of the whole model, shared ones counted once.
        by_slot: parameters of each slot's blocks; their sum is ``parameters``.
        flops_per_token: of a forward pass, for one token in a sequence of ``length``.
        cached_per_token: numbers that each further token adds to the cache; None for a model without a cache.
        cached: bytes of the cache after ``length`` tokens of one sequence, by precision of the model.
        length: of the sequence, in tokens.
    """

    parameters: int
    by_slot: dict[str, int]
    flops_per_token: float
    cached_per_token: int | None
    cached: dict[str, int]
    length: int


def cost(model: Model, length: int) -> Cost:
    """The cost of a model on the meta device; ``length`` is at most its ``max_length``."""
    per_token = getattr(model, "cached_per_token", None)
    cached = {} if per_token is None else {name: cache_bytes(model, length, dtype) for name, dtype in BYTES.items()}
    return Cost(model.size, model.parameters_by_slot(), model.flops_per_token(length), per_token, cached, length)


@torch.no_grad()
def cache_bytes(model: Any, length: int, dtype: torch.dtype) -> int:
    """Bytes in the cache of one sequence of ``length`` tokens, measured by decoding on the meta device.

    Keys and values have the model's precision; the state of a recurrence may have a higher one. In an encoder-decoder
    the source is as long as the target, and the keys and values of cross-attention count.
    """
    model = model.to(dtype).eval()
    cache: Cache = model.new_cache()
    tokens = torch.empty(1, length, dtype=torch.long, device="meta")
    if hasattr(model, "decode"):
        model.decode(tokens, model.encode(tokens), cache=cache)
    else:
        model(tokens, cache=cache)
    return bytes_in(cache)


def bytes_in(cache: Cache) -> int:
    """Bytes of all tensors in a cache."""
    states = [state for layer in cache.layers for state in layer.values()]
    tensors = [value for state in states for value in vars(state).values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
