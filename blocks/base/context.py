"""Inputs of a forward pass that blocks share."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from blocks.base.bias import DistanceBias
from blocks.base.cache import Cache, S
from blocks.base.fixed_size import FixedSize

T = TypeVar("T")


@dataclass
class Context:
    """Inputs of one forward pass besides the vectors, shared by all layers.

    Attributes:
        positions: (B or 1, T) int, position of each token in its document, from 0, padding not counted.
        offset: number of cached tokens before these; one less than its capacity for a cache of fixed size.
        attention_mask: (B, S) bool over cached and new tokens, True for a token, False for padding; None: no padding.
        documents: (B, T) int, equal for tokens of the same document; None: one document per row.
        prefix: (B, T) bool, True for the tokens that, at causal sites, all tokens of their document depend on, earlier
            ones too; None: no prefix.
        memory: (B, S, D) output of the encoder, for cross mixers.
        memory_mask: (B, S) bool, like ``attention_mask``, for ``memory``.
        cache: cache of earlier tokens while decoding; None: no cache.
        layer: index of the running layer, updated only with a cache.
        bias: the stack's bias, added to the scores of its self-attention mixers.
        scope: prefix of the names of cached states, for mixers inside another.
        features: ids besides those of the tokens, by name; see :class:`~blocks.base.Feature`.
        tokens: (B, T) int, ids of the tokens; None where only their vectors are known.
        inputs: (B, T, D), the vectors that the stack begins with; None if no mixer reads them.
        sources: indices of the layers whose keys and values later layers attend to, too.
    """

    positions: Tensor
    offset: int = 0
    attention_mask: Tensor | None = None
    documents: Tensor | None = None
    prefix: Tensor | None = None
    memory: Tensor | None = None
    memory_mask: Tensor | None = None
    cache: Cache | None = None
    layer: int = 0
    bias: DistanceBias | None = None
    scope: str = ""
    features: Mapping[str, Tensor] = field(default_factory=lambda: {})  # noqa: PIE807 (dict[...] stops torch.compile)
    tokens: Tensor | None = None
    inputs: Tensor | None = None
    sources: frozenset[int] = frozenset()
    shared: dict[Hashable, Any] = field(default_factory=lambda: {})  # noqa: PIE807 (dict[...] stops torch.compile)

    @property
    def length(self) -> int:
        """T, the number of tokens in this forward."""
        return self.positions.shape[1]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of ``make``, computed once per forward and ``key``; it must not depend on parameters."""
        if key not in self.shared:
            self.shared[key] = make()
        return cast("T", self.shared[key])

    def distances(self) -> Tensor:
        """Index of each key minus index of each query, (T, S) int."""

        def make() -> Tensor:
            keys = torch.arange(self.offset + self.length, device=self.positions.device)
            return keys[None, :] - (keys[self.offset :] if self.fixed is None else self.fixed.at)[:, None]

        return self.once("distances", make)

    def every_distance(self) -> Tensor:
        """Every distance between a query and a key, key minus query, (T+S-1,) int; see :class:`DistanceBias`."""

        def make() -> Tensor:
            if self.fixed is not None:
                return torch.arange(self.fixed.capacity, device=self.positions.device) - self.fixed.at
            end = max(self.length, 1)  # without tokens there is no distance
            return torch.arange(1 - self.offset - self.length, end, device=self.positions.device)

        return self.once("every distance", make)

    def lengths(self) -> Tensor:
        """Number of tokens in the document of each token, padding not counted, (B or 1, T or 1) int."""

        def make() -> Tensor:
            if self.documents is not None:
                return _document_lengths(self.documents, self.attention_mask)
            if self.attention_mask is not None:
                return self.attention_mask.sum(dim=1, keepdim=True)
            return torch.full((1, 1), self.offset + self.length, device=self.positions.device)

        return self.once("lengths", make)

    @property
    def fixed(self) -> FixedSize | None:
        """The place of the token in a cache of fixed size; None: no such cache."""
        return None if self.cache is None else self.cache.fixed

    def cached_window(self, window: int | None) -> int | None:
        """The window of a mixer's :class:`KeyValues`; None: they keep everything, or there is no cache."""
        return window if self.cache is not None and self.cache.windowed else None

    def keys(self, cached_window: int | None = None) -> int:
        """S, the number of cached and new keys that :class:`KeyValues` of a window return, which are the last ones."""
        every = self.offset + self.length
        return every if cached_window is None else min(every, cached_window - 1 + self.length)

    def state(self, name: str, make: Callable[[], S]) -> S | None:
        """The cached state ``name`` of the running layer; None: no cache."""
        return None if self.cache is None else self.cache.state(self.layer, self.scope + name, make)

    @classmethod
    def of(
        cls,
        tokens: Tensor,
        *,
        attention_mask: Tensor | None = None,
        documents: Tensor | None = None,
        prefix: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> "Context":
        """The context of ``tokens`` (B, T) or of vectors (B, T, D).

        Raises:
            ValueError: a mask has another shape than the tokens or a floating-point dtype, documents come with a
            cache, or a prefix comes after cached tokens.
        """
        batch, length = tokens.shape[:2]
        for name, value in (("attention_mask", attention_mask), ("documents", documents), ("prefix", prefix)):
            if value is not None and value.shape != (batch, length):
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, but the tokens have {(batch, length)}; make them equal"
                )
            if value is not None and value.is_floating_point():  # a mask of 0 and -inf would be read inverted
                raise ValueError(f"{name} has dtype {value.dtype}; give bool or int, and in a mask True for a token")
        if documents is not None and cache is not None:
            raise ValueError("documents are not supported with a cache: decode one document per row")
        ids = tokens if tokens.ndim == 2 else None
        if cache is not None and cache.fixed is not None:
            return cls._fixed(cache, length, ids, padded=attention_mask is not None or prefix is not None)
        offset = 0 if cache is None else cache.length
        if prefix is not None and offset:
            raise ValueError("cached tokens cannot depend on a prefix after them: give the prefix to the first call")
        mask = None if attention_mask is None else attention_mask.bool()
        if cache is not None:
            mask = cache.extend_mask(mask, batch, length, tokens.device)
        if positions is None:
            positions = _positions(length, offset, mask, documents, tokens.device)
        elif positions.ndim == 1:
            positions = positions[None]
        seen = None if prefix is None else prefix.bool()
        return cls(positions, offset, mask, documents, seen, cache=cache, tokens=ids)

    @classmethod
    def _fixed(cls, cache: Cache, length: int, ids: Tensor | None, *, padded: bool) -> "Context":
        """The context of one token of each row, whose place a cache of fixed size knows."""
        assert cache.fixed is not None
        if length != 1 or padded:
            raise ValueError("a cache of fixed size takes one token of each row at a time, without padding")
        return cls(cache.fixed.positions, cache.fixed.capacity - 1, cache=cache, tokens=ids)

    def token_ids(self, block: str) -> Tensor:
        """(B, T) int, ids of the tokens, for a block that reads them.

        Raises:
            ValueError: only vectors are known.
        """
        if self.tokens is None:
            raise ValueError(f"{block} reads token ids, but the model was given vectors; give it ids")
        return self.tokens


def _positions(length: int, offset: int, mask: Tensor | None, documents: Tensor | None, device: torch.device) -> Tensor:
    index = torch.arange(offset, offset + length, device=device)[None]
    if documents is not None:
        return index - torch.where(_begins(documents), index, 0).cummax(dim=1).values
    if mask is not None:
        return (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:] if length else mask[:, :0].long()
    return index


def _begins(documents: Tensor) -> Tensor:
    """(B, T) bool, True where a document begins, except for the first of a row."""
    new = torch.zeros_like(documents, dtype=torch.bool)
    new[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return new


def _document_lengths(documents: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T) int, the number of tokens in each token's document."""
    number = _begins(documents).cumsum(dim=1)
    counted = torch.ones_like(number) if mask is None else mask.long()
    return torch.zeros_like(number).scatter_add(1, number, counted).gather(1, number)


def growth(mask: Tensor | None, before: int, after: int) -> set[tuple[int, int]]:
    """Distinct lengths (before, after) of the rows of a batch that grows, padding not counted, for rows with any token.

    Args:
        mask: (B, ``after``) bool, False for padding; None: no padding.
        before: number of columns before.
        after: number of columns after.
    """
    if mask is None:
        return {(before, after)} if before else set()
    counts = torch.stack([mask[:, :before].sum(dim=1), mask.sum(dim=1)], dim=1)
    return {(was, now) for was, now in cast("list[list[int]]", cast("Any", counts).tolist()) if was}
