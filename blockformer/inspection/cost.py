"""What a model costs: parameters by slot, FLOPs, and what decoding keeps."""

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
        by_slot: of each slot's blocks; their sum is ``parameters``.
        flops_per_token: of a forward, for one token in a sequence of ``length``.
        cached_per_token: numbers that a cache keeps for each further token; None for a model that has no cache.
        cached: bytes that a cache holds after ``length`` tokens of one sequence, by precision of the model.
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
    cached = {} if per_token is None else {name: cached_bytes(model, length, dtype) for name, dtype in BYTES.items()}
    return Cost(model.size, model.parameters_by_slot(), model.flops_per_token(length), per_token, cached, length)


@torch.no_grad()
def cached_bytes(model: Any, length: int, dtype: torch.dtype) -> int:
    """Bytes in the cache of one sequence of ``length`` tokens, found by decoding on the meta device.

    Keys and values are in the model's precision; what a recurrence remembers may be wider. In an encoder-decoder the
    source is as long as the target, and what cross mixers keep of it counts.
    """
    model = model.to(dtype).eval()
    cache: Cache = model.new_cache()
    tokens = torch.empty(1, length, dtype=torch.long, device="meta")
    if hasattr(model, "decode"):
        model.decode(tokens, model.encode(tokens), cache=cache)
    else:
        model(tokens, cache=cache)
    return held(cache)


def held(cache: Cache) -> int:
    """Bytes of all tensors in a cache."""
    states = [state for layer in cache.layers for state in layer.values()]
    tensors = [value for state in states for value in vars(state).values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
