"""Example inputs, calls of a block of any slot, and comparison of results."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from blockformer.conformance.bare_attention import attention_to_chosen_keys, attention_with_positions
from blockformer.conformance.block_case import DIM, EXPERTS, MEMORY_DIM, STREAMS, VOCABULARY, BlockCase
from blocks.attention.key_selector import KeySelector
from blocks.base import (
    Activation,
    Adapter,
    AttentionPositions,
    Cache,
    Component,
    Context,
    Embedding,
    ExtraPrediction,
    FeedForward,
    Generator,
    Head,
    InputPositions,
    Layer,
    Lookup,
    Mixer,
    Norm,
    Pooling,
    Readout,
    Residual,
    Router,
    Stack,
    Transform,
)
from blocks.models.base import Model


@dataclass(frozen=True)
class Example:
    """Inputs of one call; ``None`` where the call leaves an input out.

    Attributes:
        x: (B, T, D) vectors, or (B, T) ids for blocks that take ids.
        mask: (B, T) bool, False for padding.
        documents: (B, T) int.
        prefix: (B, T) bool.
        memory: (B, S, D) output of an encoder; for a whole model (B, S) ids of the source.
        memory_mask: (B, S) bool.
        positions: (1, T) int.
    """

    x: Tensor
    mask: Tensor | None = None
    documents: Tensor | None = None
    prefix: Tensor | None = None
    memory: Tensor | None = None
    memory_mask: Tensor | None = None
    positions: Tensor | None = None

    def rows(self, index: list[int] | slice) -> "Example":
        """Some rows of the batch."""
        return self._each(lambda tensor: tensor[index], memory=True)

    def span(self, start: int, stop: int) -> "Example":
        """Some tokens of every row; the memory stays whole."""
        return self._each(lambda tensor: tensor[:, start:stop], memory=False)

    def with_tail(self, start: int, other: "Example") -> "Example":
        """A copy with the tokens from ``start`` on taken from another example."""
        return replace(self, x=torch.cat([self.x[:, :start], other.x[:, start:]], dim=1))

    def padded(self, left: int, right: int, other: "Example") -> "Example":
        """A copy with masked padding on both sides, whose content comes from another example."""
        length = self.x.shape[1]
        x = torch.cat([other.x[:, :left], self.x, other.x[:, left : left + right]], dim=1)
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[:, left : left + length] = True
        return replace(self, x=x, mask=mask)

    def _each(self, change: Callable[[Tensor], Tensor], memory: bool) -> "Example":
        def maybe(tensor: Tensor | None, apply: bool = True) -> Tensor | None:
            return change(tensor) if tensor is not None and apply else tensor

        return Example(
            change(self.x),
            maybe(self.mask),
            maybe(self.documents),
            maybe(self.prefix),
            maybe(self.memory, memory),
            maybe(self.memory_mask, memory),
        )


def example(
    case: BlockCase,
    *,
    seed: int = 0,
    batch: int = 2,
    length: int = 5,
    memory_length: int = 4,
    dtype: torch.dtype = torch.float64,
) -> Example:
    """Random inputs for the block."""
    generator = torch.Generator().manual_seed(seed)

    def ids(time: int) -> Tensor:
        return torch.randint(VOCABULARY, (batch, time), generator=generator)

    def vectors(time: int, width: int) -> Tensor:
        return torch.randn(batch, time, width, generator=generator, dtype=torch.float64).to(dtype)

    x = ids(length) if case.reads_ids else vectors(length, DIM)
    if not has_memory(case):
        return Example(x)
    return Example(x, memory=ids(memory_length) if case.slot == "model" else vectors(memory_length, MEMORY_DIM))


def reset_rng(seed: int = 0) -> None:
    """Seed torch's default generator, from which dropout draws."""
    torch.default_generator.manual_seed(seed)


def memory_of(given: Example) -> Tensor:
    """The memory of an example that has one, for the type checker."""
    if given.memory is None:
        raise TypeError("this example has no memory")
    return given.memory


def has_memory(case: BlockCase) -> bool:
    """Whether the block takes an encoder's output."""
    return case.place == "cross" and case.slot in ("mixer", "layer", "stack", "model")


def run(block: Component, example: Example, cache: Cache | None = None) -> Tensor:
    """The output of ``block``, called as its slot is called: (B, T, ...), or (B, ...) of one that pools.

    Raises:
        TypeError: the slot is not one of ours.
    """
    match block:
        case Model():
            return _model(block, example, cache)
        case Activation() | Adapter() | Norm() | Transform():
            return block(example.x)
        case FeedForward():
            block.prepare(_context(example, cache))
            return block(example.x)
        case Residual():
            return _with_streams(block.streams, example.x, lambda x: block(x, lambda y: 1.5 * torch.tanh(y)))
        case Readout():
            return block(streams_of(example.x, STREAMS))
        case Head():
            return block(block.pool(example.x, _context(example, cache)), _table(example.x))
        case Router():
            return _expert_weights(block, example)
        case _:
            context = _context(example, cache)
            y = _run_with_context(block, example.x, context)
            if cache is not None:
                cache.length += example.x.shape[1]
            return y


def streams_of(x: Tensor, count: int) -> Tensor:
    """Different residual streams (B, T, N, D) that are made of vectors (B, T, D)."""
    return torch.stack([x.roll(index, -1) for index in range(count)], dim=-2)


def _with_streams(count: int | None, x: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
    """The output of a block with ``count`` residual streams, of which several are summed with different weights."""
    if count is None or count == 1:
        return call(x)
    weights = torch.linspace(0.5, 1.5, count, dtype=x.dtype, device=x.device)
    return (call(streams_of(x, count)) * weights[:, None]).sum(dim=-2)


def new_cache(block: Component) -> Cache:
    """An empty cache for decoding with a block alone or with a model."""
    if isinstance(block, Model):
        return cast("Any", block).new_cache()
    return Cache(block.depth if isinstance(block, Stack) else 1)


def _run_with_context(block: Component, x: Tensor, context: Context) -> Tensor:
    match block:
        case Mixer():
            block.prepare(context)
            return block(x, context)
        case Layer():
            block.prepare(context)
            return _with_streams(block.streams, x, lambda y: block(y, context))
        case Lookup():
            block.prepare(context)
            return _with_streams(STREAMS, x, lambda y: block(y, context))
        case Stack() | InputPositions() | Embedding() | Pooling():
            return block(x, context)
        case ExtraPrediction():
            return block(x, x, x, context)
        case Generator():
            return block.logits(block(x, context), _table(x))
        case AttentionPositions():
            return attention_with_positions(block, x, context)
        case KeySelector():
            return attention_to_chosen_keys(block, x, context)
        case _:
            raise TypeError(
                f"blockformer.conformance.example: blocks of slot {block.slot} cannot be called; add the slot to run()"
            )


def _expert_weights(router: Router, example: Example) -> Tensor:
    """(B, T, E): the weight of each expert, 0 if not chosen."""
    router.prepare(_context(example, None))
    weights, chosen = router(example.x.flatten(0, 1))
    every = weights.new_zeros(len(weights), EXPERTS).scatter(1, chosen, weights)
    return every.view(*example.x.shape[:2], EXPERTS).to(example.x.dtype)


def _context(example: Example, cache: Cache | None) -> Context:
    said = {"attention_mask": example.mask, "documents": example.documents, "prefix": example.prefix}
    context = Context.of(example.x, **said, positions=example.positions, cache=cache)
    context.memory, context.memory_mask = example.memory, example.memory_mask
    if context.tokens is None:  # of a block alone, each vector stands for a token
        context.tokens, context.inputs = ids_of(example.x), example.x
    return context


def ids_of(x: Tensor) -> Tensor:
    """(B, T) token ids below 32 for vectors (B, T, D), which depend on the signs of their first channels."""
    signs = x[..., :5].detach() > 0
    return (signs * 2 ** torch.arange(5, device=x.device)).sum(-1)


def hidden(model: Any, example: Example) -> Tensor:
    """The vectors of a model before its head: (B, T, D), or (B, D) if the head pools."""
    return _model(model, example, None, hidden=True)


def _model(model: Any, example: Example, cache: Cache | None, *, hidden: bool = False) -> Tensor:
    how = {"hidden": True} if hidden else {}
    if model.kind == "encoder_decoder":
        if cache is None:
            masks = {"source_mask": example.memory_mask, "target_mask": example.mask}
            return model(example.memory, example.x, **masks, **how)
        memory = model.encode(example.memory, example.memory_mask)
        return model.decode(example.x, memory, example.memory_mask, example.mask, cache)
    extra: dict[str, Any] = {} if cache is None else {"cache": cache}
    if example.prefix is not None:
        extra["prefix"] = example.prefix
    said = {"attention_mask": example.mask, "documents": example.documents, "positions": example.positions}
    return model(example.x, **said, **extra, **how)


def _table(x: Tensor) -> Tensor:
    """A fixed token table for a head, (V, D)."""
    return torch.linspace(-1.0, 1.0, VOCABULARY * DIM, dtype=x.dtype, device=x.device).sin().view(VOCABULARY, DIM)


EXACT, CLOSE, COARSE = 0.0, 1e-9, 1e-5  # of the largest value; CLOSE is for float64


def assert_same(actual: Tensor, expected: Tensor, what: str, tolerance: float = CLOSE, scale: float = 1.0) -> None:
    """Assert equal shapes, and differences of at most ``tolerance`` times the largest expected value.

    Args:
        actual: the values.
        expected: what they should be.
        what: begins the error.
        tolerance: allowed difference, relative to the largest expected value.
        scale: size of what the values are differences of; expected values are taken to be at least 1e-5 of it.
    """
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)} is not {tuple(expected.shape)}"
    if not expected.numel():
        return
    assert bool(torch.isfinite(actual).all()), f"{what}: not all values are finite"
    actual, expected = actual.detach().double(), expected.detach().double()
    difference = (actual - expected).abs()
    worst, allowed = float(difference.max()), tolerance * max(float(expected.abs().max()), 1e-5 * scale)
    if worst > allowed:
        place = [int(i) for i in torch.unravel_index(difference.argmax(), difference.shape)]
        raise AssertionError(f"{what}: differs by {worst:.3g} at {place}; allowed: {allowed:.3g}")
