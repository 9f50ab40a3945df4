"""Which keys each query attends to, described instead of drawn, and the biases of the scores."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from blocks.base import AttentionPositions, Context, DistanceBias

T = TypeVar("T")


@dataclass(eq=False)
class Visibility:
    """The keys that each of T queries attends to, of S keys; the last queries are the last keys.

    Backends compute what they need from it: masks of parts, or of all scores, ranges of keys, or nothing.

    Attributes:
        queries: T.
        keys: S.
        device: where masks are computed.
        causal: whether a query attends to no later key.
        window: a query attends to keys less than this many tokens away; None: no window.
        padding: (B, S) bool, False for padding, which nothing attends to; None: no padding.
        documents: (B or 1, S) int, equal for tokens of the same document, or chunk of it, which attend to each other
            only; None: one document.
        prefix: (B, S) bool, for T = S, True for keys that earlier queries attend to, too; None: no prefix.
        chosen: (B, 1, T, S) bool, False for keys that a query does not attend to though it could; None: all are chosen.
    """

    queries: int
    keys: int
    device: torch.device
    causal: bool = False
    window: int | None = None
    padding: Tensor | None = None
    documents: Tensor | None = None
    prefix: Tensor | None = None
    chosen: Tensor | None = None
    _known: dict[str, Any] = field(
        init=False,
        default_factory=lambda: {},  # noqa: PIE807 (dict[...] stops torch.compile)
    )

    def __post_init__(self) -> None:
        if self.window is not None and self.window >= self.keys:
            self.window = None
        if self.causal and self.queries == 1:
            self.causal = False  # no key is later than the last query
        if not self.causal:
            self.prefix = None

    @property
    def everything(self) -> bool:
        """Whether every query attends to every key."""
        return not self.causal and self.window is None and not self.varies

    @property
    def plainly_causal(self) -> bool:
        """Whether query t attends to just the keys 0 to t, which kernels compute without a mask."""
        square = self.queries == self.keys
        return self.causal and square and self.window is None and not self.varies

    @property
    def varies(self) -> bool:
        """Whether more than distances decides: padding, documents, a prefix or a choice."""
        return any(x is not None for x in (self.padding, self.documents, self.prefix, self.chosen))

    @property
    def needs_all_scores(self) -> bool:
        """Whether :meth:`mask` has a value for each score, not only for each key."""
        among_keys = self.causal or self.window is not None or self.documents is not None or self.chosen is not None
        return not self.plainly_causal and among_keys

    def among(self, chosen: Tensor | None) -> "Visibility":
        """The same for one layer that attends to ``chosen`` keys only, (B, 1, T, S) bool; None: to all of them."""
        return self if chosen is None else replace(self, chosen=chosen)

    def mask(self) -> Tensor | None:
        """(B or 1, 1, T or 1, S) bool, True where a query attends to a key, computed once; None: everywhere."""
        return self.once("mask", lambda: self.part(slice(None), (0, self.queries), (0, self.keys)))

    def part(
        self, rows: slice, queries: tuple[int, int], keys: tuple[int, int], *, by_distance: bool = True
    ) -> Tensor | None:
        """The mask of some rows of the batch, queries and keys, given as (first, last excluded); None: everywhere.

        Without ``by_distance``, causality and the window are left out.
        """
        (first, last), (begin, end) = queries, keys
        parts: list[Tensor] = []
        if self.padding is not None:
            parts.append(self.padding[rows, None, None, begin:end])
        if self.documents is not None:
            offset, rows_of = self.keys - self.queries, rows if self.documents.shape[0] > 1 else slice(None)
            own = self.documents[rows_of, first + offset : last + offset, None]
            parts.append((own == self.documents[rows_of, None, begin:end])[:, None])
        if by_distance and (self.causal or self.window is not None):
            parts.append(self._band(rows, queries, keys))
        if self.chosen is not None:
            parts.append(self.chosen[rows, :, first:last, begin:end])
        mask: Tensor | None = None
        for part in parts:
            mask = part if mask is None else mask & part
        return mask

    def _band(self, rows: slice, queries: tuple[int, int], keys: tuple[int, int]) -> Tensor:
        """(B or 1, 1, T, S): the keys that are not too late, unless they are in the prefix, and not too far away."""
        index = torch.arange(*keys, device=self.device)
        offset = self.keys - self.queries
        distance = index - torch.arange(queries[0] + offset, queries[1] + offset, device=self.device)[:, None]
        seen: Tensor | None = None
        if self.causal:
            seen = (distance <= 0)[None, None]
            if self.prefix is not None:
                seen = seen | self.prefix[rows, None, None, keys[0] : keys[1]]
        if self.window is not None:
            near = (distance.abs() < self.window)[None, None]
            seen = near if seen is None else seen & near
        assert seen is not None
        return seen

    def ranges(self) -> tuple[Tensor, Tensor]:
        """First key that each query attends to, and the one after the last, (B or 1, T) int each; others lie between.

        A query that attends to no key may have any range.
        """
        index = torch.arange(self.keys - self.queries, self.keys, device=self.device)[None]
        first, last = torch.zeros_like(index), torch.full_like(index, self.keys)
        if self.causal:
            last = index + 1
            if self.prefix is not None:
                last = torch.maximum(last, _after_last(self.prefix))
        if self.window is not None:
            first, last = first.clamp(min=index - self.window + 1), last.clamp(max=index + self.window)
        if self.documents is not None:
            begins, ends = (border[:, self.keys - self.queries :] for border in document_ranges(self.documents))
            first, last = torch.maximum(first, begins), torch.minimum(last, ends)
        if self.padding is not None:
            first = torch.maximum(first, self.keys - _after_last(self.padding.flip(1)))
            last = torch.minimum(last, _after_last(self.padding))
        found: Any = cast("Any", torch).broadcast_tensors(first, last)
        return found[0], found[1]

    def gapless(self) -> Tensor:
        """Whether each row's queries see all keys of their :meth:`ranges`, (B or 1, 1) bool; False: perhaps not."""
        sure = torch.ones(1, 1, dtype=torch.bool, device=self.device)
        if self.prefix is not None or self.chosen is not None:
            return ~sure
        if self.padding is not None:
            between = _after_last(self.padding) + _after_last(self.padding.flip(1)) - self.keys
            sure = sure & (self.padding.sum(1, keepdim=True) == between)
        if self.documents is not None:
            in_order = self.documents.sort(dim=1).values.diff(dim=1).ne(0).sum(1, keepdim=True)
            sure = sure & (self.documents.diff(dim=1).ne(0).sum(1, keepdim=True) == in_order)
        return sure

    def once(self, key: str, make: Callable[[], T]) -> T:
        """The result of ``make``, computed once per ``key`` for all layers that share this."""
        if key not in self._known:
            self._known[key] = make()
        return cast("T", self._known[key])


def _after_last(chosen: Tensor) -> Tensor:
    """(B, S) bool -> (B, 1) int, the index after the last True."""
    return (chosen * torch.arange(1, chosen.shape[1] + 1, device=chosen.device)).amax(dim=1, keepdim=True)


def document_ranges(documents: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first token of each token's document in its row, and that after the last, (B, T) int each."""
    ids, order = documents.sort(dim=1, stable=True)
    changes = ids[:, 1:] != ids[:, :-1]
    border = torch.ones_like(ids[:, :1], dtype=torch.bool)
    index = torch.arange(documents.shape[1], device=documents.device)
    begin = torch.where(torch.cat([border, changes], dim=1), index, 0).cummax(dim=1).values
    end = torch.where(torch.cat([changes, border], dim=1), index, documents.shape[1])
    end = end.flip(1).cummin(dim=1).values.flip(1)
    first, last = order.gather(1, begin), order.gather(1, end) + 1
    return torch.zeros_like(first).scatter(1, order, first), torch.zeros_like(last).scatter(1, order, last)


def visibility(
    context: Context,
    *,
    causal: bool,
    window: int | None = None,
    cached_window: int | None = None,
    chunk: int | None = None,
) -> Visibility:
    """Self-attention: padding, documents, causality, the prefix, the window and chunks; described once per forward.

    Args:
        context: of the forward.
        causal: whether a query attends to no later key.
        window: a query attends to keys less than this many tokens away; None: no window.
        cached_window: the window of the mixer's :class:`KeyValues`, which drop older keys; None: they have all keys.
        chunk: a query attends to keys in its own chunk of this many positions of its document only; None: no chunks.
    """

    def describe() -> Visibility:
        keys, device, padding = context.keys(cached_window), context.positions.device, context.attention_mask
        if context.fixed is not None:
            seen = context.fixed.visible(window)
            if chunk is not None:
                positions = context.fixed.tokens.long().cumsum(dim=1) - 1
                seen = seen & (positions // chunk == context.positions // chunk)
            return Visibility(1, keys, device, padding=seen)
        if padding is not None and cached_window is not None:
            padding = padding[:, padding.shape[1] - keys :]
        documents = context.documents if chunk is None else _chunks(context, chunk)
        if documents is not None and cached_window is not None:
            documents = documents[:, documents.shape[1] - keys :]
        return Visibility(context.length, keys, device, causal, window, padding, documents, context.prefix)

    return context.once(("visibility", causal, window, cached_window, chunk), describe)


def _chunks(context: Context, chunk: int) -> Tensor:
    """(B or 1, S) int, equal for tokens of the same chunk of ``chunk`` positions of the same document."""
    if context.documents is not None:
        number = context.positions // chunk
        return context.documents * (context.length // chunk + 2) + number
    if context.attention_mask is not None:
        return (context.attention_mask.long().cumsum(dim=1) - 1).clamp(min=0) // chunk
    return torch.arange(context.offset + context.length, device=context.positions.device)[None] // chunk


def memory_visibility(context: Context, queries: int, keys: int) -> Visibility:
    """Cross-attention of ``queries`` tokens: all ``keys`` tokens of the memory but padding."""
    return Visibility(queries, keys, context.positions.device, padding=context.memory_mask)


def score_bias(
    positions: AttentionPositions, context: Context, cached_window: int | None = None
) -> DistanceBias | None:
    """Sum of the biases of a mixer's own positions and of the stack's; None: no bias.

    Args:
        positions: of the mixer.
        context: of the forward.
        cached_window: as of :func:`visibility`.
    """
    bias, shared = positions.bias(context), context.bias
    if shared is not None:
        bias = shared if bias is None else bias.plus(shared)
    if bias is None or cached_window is None:
        return bias
    return bias.of_last(context.keys(cached_window), context.length)
