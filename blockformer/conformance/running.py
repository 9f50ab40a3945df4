"""How a block of each slot is called."""

from typing import Any, cast

import torch
from torch import Tensor

from blockformer.conformance.example import Example
from blockformer.conformance.subject import DIM, EXPERTS, HEADS, VOCABULARY
from blocks.attention.backends import Scoring, eager
from blocks.attention.visibility import visibility
from blocks.base import (
    Activation,
    AttentionPositions,
    Cache,
    Component,
    Context,
    Embedding,
    FeedForward,
    Head,
    InputPositions,
    KeyValues,
    Layer,
    Mixer,
    Norm,
    Residual,
    Router,
    Stack,
    Transform,
)
from blocks.models.base import Model


def run(block: Component, example: Example, cache: Cache | None = None) -> Tensor:
    """What ``block`` makes of an example: (B, T, ...).

    Raises:
        TypeError: nobody has said how a block of this slot is called.
    """
    match block:
        case Model():
            return _model(block, example, cache)
        case Activation() | Norm() | Transform():
            return block(example.x)
        case FeedForward():
            block.prepare(_context(example, cache))
            return block(example.x)
        case Residual():
            return block(example.x, lambda y: 1.5 * torch.tanh(y))
        case Head():
            return block(example.x, _table(example.x))
        case Router():
            return _weights_of_all(block, example)
        case _:
            context = _context(example, cache)
            y = _placed(block, example.x, context)
            if cache is not None:
                cache.length += example.x.shape[1]
            return y


def new_cache(block: Component) -> Cache:
    """An empty cache for decoding with a block alone or with a model."""
    if isinstance(block, Model):
        return cast("Any", block).new_cache()
    return Cache(block.depth if isinstance(block, Stack) else 1)


def _placed(block: Component, x: Tensor, context: Context) -> Tensor:
    match block:
        case Mixer() | Layer():
            block.prepare(context)
            return block(x, context)
        case Stack() | InputPositions() | Embedding():
            return block(x, context)
        case AttentionPositions():
            return _bare_attention(block, x, context)
        case _:
            raise TypeError(f"blockformer.conformance.running does not know how a {block.slot} is called")


def _bare_attention(positions: AttentionPositions, x: Tensor, context: Context) -> Tensor:
    """Softmax attention without projections: positions show only in what it gives."""
    positions.prepare(context)
    heads = x.view(*x.shape[:2], HEADS, x.shape[2] // HEADS).transpose(1, 2)  # (B, H, T, K)
    turned = positions.rotate(heads, context)
    state = context.state("mixer", KeyValues)
    keys, values = (turned, heads) if state is None else state.append(turned, heads)
    visible = visibility(context, causal=positions.site is None or positions.site.causal)
    y = eager(turned, keys, values, visible, Scoring(0.3, bias=positions.bias(context)))
    return y.transpose(1, 2).flatten(2)


def _weights_of_all(router: Router, example: Example) -> Tensor:
    """(B, T, E): each expert's weight, 0 for those that are not chosen."""
    router.prepare(_context(example, None))
    weights, chosen = router(example.x.flatten(0, 1))
    every = weights.new_zeros(len(weights), EXPERTS).scatter(1, chosen, weights)
    return every.view(*example.x.shape[:2], EXPERTS).to(example.x.dtype)


def _context(example: Example, cache: Cache | None) -> Context:
    said = {"attention_mask": example.mask, "documents": example.documents, "positions": example.positions}
    context = Context.of(example.x, **said, cache=cache)
    context.memory, context.memory_mask = example.memory, example.memory_mask
    return context


def _model(model: Any, example: Example, cache: Cache | None) -> Tensor:
    if model.kind == "encoder_decoder":
        if cache is None:
            return model(example.memory, example.x, source_mask=example.memory_mask, target_mask=example.mask)
        memory = model.encode(example.memory, example.memory_mask)
        return model.decode(example.x, memory, example.memory_mask, example.mask, cache)
    extra = {} if cache is None else {"cache": cache}
    said = {"attention_mask": example.mask, "documents": example.documents, "positions": example.positions}
    return model(example.x, **said, **extra)


def _table(x: Tensor) -> Tensor:
    """A token table for a head: any fixed numbers will do."""
    return torch.linspace(-1.0, 1.0, VOCABULARY * DIM, dtype=x.dtype, device=x.device).sin().view(VOCABULARY, DIM)
