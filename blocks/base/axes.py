"""Meaning of each parameter axis, and how to resize it.

Blocks declare axes in :meth:`~blocks.base.Component.axes` for :func:`blockformer.warm_start`, and for inits and
optimizers whose values depend on the model's width (:mod:`blocks.base.width`). Other rules are subclasses of
:class:`Axis`, which may be defined beside the block that needs them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Change:
    """The old entries from which the new entries along one axis are made.

    Attributes:
        sources: (new, pooled) int, the old entries whose mean each new entry is; -1: a new entry.
        description: what changes, for reports; empty: unchanged.
        fill: value of new entries: drawn by the init (fresh), 0 (zero), or near the mean of the old entries (mean).
        each: indices per entry along the axis.
        shift: added to the values.
    """

    sources: Tensor
    description: str
    fill: Literal["fresh", "zero", "mean"] = "fresh"
    each: int = 1
    shift: float = 0.0


@dataclass(frozen=True)
class ResizeContext:
    """Facts about the trained model that a rule may use.

    Attributes:
        tokens: the old id of each new token id, -1 for a token without one, as for ids past the end; None: ids are
            equal.
        importance: returns the importance (old,) of the axis's old entries.
    """

    tokens: Tensor | None
    importance: Callable[[], Tensor]


@dataclass(frozen=True)
class Axis(ABC):
    """An axis of a parameter and its rule for resizing.

    Args:
        size: number of entries.
        each: indices per entry along the axis.

    Attributes:
        title: what its entries are called in reports.
        grows: whether it is larger in proportion to the model's width.
    """

    title: ClassVar[str]
    grows: ClassVar[bool] = True
    size: int
    each: int = 1

    def change(self, old: "Axis", context: ResizeContext) -> Change | None:
        """The change from ``old``, an axis of the same class, to this one; None: impossible."""
        if self == old:
            return Change(_same(self.size), "", each=self.each)
        if self.each != old.each:
            if self.size * self.each != old.size * old.each:
                return None
            description = f"{old.size} {self.title} of {old.each} read as {self.size} of {self.each}"
            return Change(_same(self.size), description, each=self.each)
        return self.resized(old, context)

    @abstractmethod
    def resized(self, old: "Axis", context: ResizeContext) -> Change | None:
        """As :meth:`change`, for axes with equal ``each``."""


@dataclass(frozen=True)
class Hidden(Axis):
    """Units between two projections.

    More units: new ones get fresh input weights and output weights of 0, so that the function stays the same (Gesmundo
    & Maile, 2023, arXiv:2308.06103); unlike copies (Chen et al., 2016, arXiv:1511.05641), they differ from the first
    step on. Fewer units: those with the largest product of weight norms are kept (after Li et al., 2017,
    arXiv:1608.08710); the same units in all experts.

    Args:
        zero_new: new units start at 0, for the input axis of the projection after the units.
    """

    title = "units"
    zero_new: bool = False

    def resized(self, old: Axis, context: ResizeContext) -> Change | None:
        if self.size > old.size:
            return _appended(self, old, zero=self.zero_new)
        kept = context.importance().topk(self.size).indices.sort().values
        return Change(kept[:, None], f"the {self.size} of {old.size} units with the largest weights", each=self.each)


@dataclass(frozen=True)
class Heads(Axis):
    """Query heads.

    More heads in groups of the same size: as :class:`Hidden`. Fewer heads: impossible.

    Args:
        keys: number of key and value heads.
        zero_new: new heads start at 0, for the input axis of the output projection.
    """

    title = "heads"
    keys: int = 1
    zero_new: bool = False

    def resized(self, old: Axis, context: ResizeContext) -> Change | None:
        assert isinstance(old, Heads)
        if self.size == old.size:
            return Change(_same(self.size), "", each=self.each)
        grows = self.size > old.size and self.size * old.keys == old.size * self.keys
        return _appended(self, old, zero=self.zero_new) if grows else None


@dataclass(frozen=True)
class KeyHeads(Axis):
    """Key and value heads, each for a group of consecutive query heads.

    Fewer heads: each is the mean of a group of old ones (Ainslie et al., 2023, arXiv:2305.13245, section 2.1). More
    heads: old ones are repeated, and the function stays the same. With more query heads in groups of the same size, new
    heads are fresh.

    Args:
        queries: number of query heads.
    """

    title = "key heads"
    queries: int = 1

    def resized(self, old: Axis, context: ResizeContext) -> Change | None:
        assert isinstance(old, KeyHeads)
        if self.queries != old.queries:
            grows = self.size > old.size and self.queries * old.size == old.queries * self.size
            return _appended(self, old, zero=False) if grows else None
        if old.size % self.size == 0:
            description = f"{old.size} key heads pooled to {self.size}, the mean of each group"
            return Change(torch.arange(old.size).view(self.size, -1), description, each=self.each)
        if self.size % old.size == 0:
            repeated = torch.arange(self.size)[:, None] // (self.size // old.size)
            return Change(repeated, f"{old.size} key heads repeated to {self.size}", each=self.each)
        return None


@dataclass(frozen=True)
class Vocabulary(Axis):
    """Token ids. New tokens start near the mean of the old ones (Hewitt, 2021, "Initializing new word embeddings").

    So the probabilities of old tokens change little, and new vectors are similar to those seen in training.
    """

    title = "tokens"
    grows = False

    def change(self, old: Axis, context: ResizeContext) -> Change | None:
        if context.tokens is None:
            return super().change(old, context)
        tokens = torch.full((self.size,), -1)
        tokens[: len(context.tokens)] = context.tokens[: self.size]
        tokens[tokens >= old.size] = -1
        found = int((tokens >= 0).sum())
        description = f"{found} of {self.size} tokens found by their text"
        if found < self.size:
            description += ", the others near the mean of the old"
        return Change(tokens[:, None], description, "mean")

    def resized(self, old: Axis, context: ResizeContext) -> Change | None:
        if self.size < old.size:
            return Change(_same(self.size), f"the first {self.size} of {old.size} tokens")
        sources = torch.full((self.size, 1), -1)
        sources[: old.size] = _same(old.size)
        return Change(sources, f"{old.size} tokens, and {self.size - old.size} new ones near their mean", "mean")


@dataclass(frozen=True)
class PositionAxis(Axis):
    """Positions of a sequence.

    More positions: the table is repeated (Beltagy et al., 2020, arXiv:2004.05150, section 5), which changes nothing for
    sequences up to the old length and keeps the relation of neighbouring positions. Fewer positions: it is truncated.

    Args:
        before: number of rows before the first position, included in ``size``.
    """

    title = "positions"
    grows = False
    before: int = 0

    def resized(self, old: Axis, context: ResizeContext) -> Change | None:
        assert isinstance(old, PositionAxis)
        now, then = self.size - self.before, old.size - old.before
        positions = old.before + torch.arange(now) % then
        leading = torch.arange(self.before)
        leading = torch.where(leading < old.before, leading, -1)
        if now == then:
            description = f"the same {now} positions, after {self.before} rows instead of {old.before}"
        elif now > then:
            description = f"{then} positions repeated to {now}"
        else:
            description = f"the first {now} of {then} positions"
        return Change(torch.cat([leading, positions])[:, None], description)


@dataclass(frozen=True)
class Experts(Axis):
    """Experts. From a plain feed-forward, each starts as a copy of it (Komatsuzaki et al., 2022, arXiv:2212.05055)."""

    title = "experts"
    grows = False

    def resized(self, old: Axis, context: ResizeContext) -> Change | None:
        if old.size != 1:
            return None
        return Change(torch.zeros(self.size, 1, dtype=torch.long), f"copied to each of {self.size} experts")


@dataclass(frozen=True)
class Channels(Axis):
    """Channels that a norm scales by ``offset + weight``: if the offset changes, weights are shifted to compensate.

    Args:
        offset: added to the weight.
    """

    title = "channels"
    offset: float = 0.0

    def resized(self, old: Axis, context: ResizeContext) -> Change | None:
        assert isinstance(old, Channels)
        if self.size != old.size:
            return None
        return Change(_same(self.size), f"offset {old.offset:g} is now {self.offset:g}", shift=old.offset - self.offset)


@dataclass(frozen=True)
class Fixed(Axis):
    """Entries whose number does not depend on the model's width, such as the taps of a convolution."""

    title = "entries"
    grows = False

    def resized(self, old: Axis, context: ResizeContext) -> Change | None:
        return None


def _same(size: int) -> Tensor:
    return torch.arange(size)[:, None]


def _appended(new: Axis, old: Axis, *, zero: bool) -> Change:
    sources = torch.full((new.size, 1), -1)
    sources[: old.size] = _same(old.size)
    how = "write 0" if zero else "are fresh"
    description = f"{old.size} {new.title}, and {new.size - old.size} new ones that {how}"
    return Change(sources, description, "zero" if zero else "fresh", new.each)
