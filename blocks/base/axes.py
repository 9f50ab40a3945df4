"""Meaning of each parameter axis, and how to resize it.

Blocks declare it in :meth:`~blocks.base.Component.axes`, and :func:`blockformer.warm_start` reads it. A missing rule is
another subclass of :class:`Axis`, in the file of the block that needs it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Change:
    """Where the entries along one axis come from.

    Attributes:
        sources: (new, pooled) int, the old entries that each new one is the mean of; -1: it is new.
        words: what was done, for people; empty: nothing.
        filling: what a new one is: as in a cold start, 0, or near the mean of the old ones.
        each: numbers that an entry takes along the axis.
        shift: is added.
    """

    sources: Tensor
    words: str
    filling: Literal["fresh", "zero", "mean"] = "fresh"
    each: int = 1
    shift: float = 0.0


@dataclass(frozen=True)
class Known:
    """What a rule may ask about the trained model.

    Attributes:
        tokens: the old id of new tokens 0, 1, ..., -1 if it had none, as those past the end; None: ids mean the same.
        importance: gives (old,) what the entries of the axis at hand weigh in their block.
    """

    tokens: Tensor | None
    importance: Callable[[], Tensor]


@dataclass(frozen=True)
class Axis(ABC):
    """An axis with a meaning.

    Args:
        size: number of entries.
        each: numbers that each entry takes along the axis.
    """

    title: ClassVar[str]
    size: int
    each: int = 1

    def change(self, old: "Axis", known: Known) -> Change | None:
        """How entries of this axis come from those of ``old``, which is of the same class; None: they cannot."""
        if self == old:
            return Change(_same(self.size), "", each=self.each)
        if self.each != old.each:
            if self.size * self.each != old.size * old.each:
                return None
            words = f"{old.size} {self.title} of {old.each} read as {self.size} of {self.each}"
            return Change(_same(self.size), words, each=self.each)
        return self.resized(old, known)

    @abstractmethod
    def resized(self, old: "Axis", known: Known) -> Change | None:
        """As :meth:`change`, where entries are as wide as before but others in number or in what they stand beside."""


@dataclass(frozen=True)
class Hidden(Axis):
    """Units between two projections.

    More: new units read as in a cold start and write with weights of 0, so that the function stays (Gesmundo & Maile,
    2023, arXiv:2308.06103); unlike copies (Chen et al., 2016, arXiv:1511.05641) they differ from the first step on.
    Fewer: those stay whose weights are greatest, by the product of their norms (after Li et al., 2017,
    arXiv:1608.08710); of experts, the same ones in all.

    Args:
        zero_new: new units start at 0: the axis of a projection that adds up what the units give.
    """

    title = "units"
    zero_new: bool = False

    def resized(self, old: Axis, known: Known) -> Change | None:
        if self.size > old.size:
            return _appended(self, old, zero=self.zero_new)
        kept = known.importance().topk(self.size).indices.sort().values
        return Change(kept[:, None], f"the {self.size} of {old.size} units that weigh most", each=self.each)


@dataclass(frozen=True)
class Heads(Axis):
    """Query heads. More, of which as many as before share a key head: as :class:`Hidden`. Fewer: not.

    Args:
        keys: number of key and value heads that they share.
        zero_new: new heads start at 0: the axis of a projection that adds up what the heads give.
    """

    title = "heads"
    keys: int = 1
    zero_new: bool = False

    def resized(self, old: Axis, known: Known) -> Change | None:
        assert isinstance(old, Heads)
        if self.size == old.size:
            return Change(_same(self.size), "", each=self.each)
        grows = self.size > old.size and self.size * old.keys == old.size * self.keys
        return _appended(self, old, zero=self.zero_new) if grows else None


@dataclass(frozen=True)
class KeyHeads(Axis):
    """Heads of keys and values, each for a group of neighbouring query heads.

    Fewer: each is the mean of those of its group (Ainslie et al., 2023, arXiv:2305.13245, section 2.1). More: each
    group's is repeated, and the function stays. With more query heads in groups as large as before, new ones are fresh.

    Args:
        queries: number of query heads that they serve.
    """

    title = "key heads"
    queries: int = 1

    def resized(self, old: Axis, known: Known) -> Change | None:
        assert isinstance(old, KeyHeads)
        if self.queries != old.queries:
            grows = self.size > old.size and self.queries * old.size == old.queries * self.size
            return _appended(self, old, zero=False) if grows else None
        if old.size % self.size == 0:
            words = f"{old.size} key heads pooled to {self.size}, the mean of each group"
            return Change(torch.arange(old.size).view(self.size, -1), words, each=self.each)
        if self.size % old.size == 0:
            repeated = torch.arange(self.size)[:, None] // (self.size // old.size)
            return Change(repeated, f"{old.size} key heads repeated to {self.size}", each=self.each)
        return None


@dataclass(frozen=True)
class Vocabulary(Axis):
    """Token ids. New tokens start near the mean of the old (Hewitt, 2021, "Initializing new word embeddings").

    So a new token takes little from the probability of the others, and the model has seen vectors like its own.
    """

    title = "tokens"

    def change(self, old: Axis, known: Known) -> Change | None:
        if known.tokens is None:
            return super().change(old, known)
        tokens = torch.full((self.size,), -1)
        tokens[: len(known.tokens)] = known.tokens[: self.size]
        tokens[tokens >= old.size] = -1
        found = int((tokens >= 0).sum())
        words = f"{found} of {self.size} tokens found by their text"
        if found < self.size:
            words += ", the others near the mean of the old"
        return Change(tokens[:, None], words, "mean")

    def resized(self, old: Axis, known: Known) -> Change | None:
        if self.size < old.size:
            return Change(_same(self.size), f"the first {self.size} of {old.size} tokens")
        sources = torch.full((self.size, 1), -1)
        sources[: old.size] = _same(old.size)
        return Change(sources, f"{old.size} tokens, and {self.size - old.size} new ones near their mean", "mean")


@dataclass(frozen=True)
class Places(Axis):
    """Positions in a text.

    More: the table is repeated (Beltagy et al., 2020, arXiv:2004.05150, section 5), which changes nothing for texts as
    long as before, and keeps what near places know of each other. Fewer: it is cut.

    Args:
        before: rows of the table before the first position; they count in ``size``.
    """

    title = "positions"
    before: int = 0

    def resized(self, old: Axis, known: Known) -> Change | None:
        assert isinstance(old, Places)
        now, then = self.size - self.before, old.size - old.before
        positions = old.before + torch.arange(now) % then
        leading = torch.arange(self.before)
        leading = torch.where(leading < old.before, leading, -1)
        if now == then:
            words = f"the same {now} positions, after {self.before} rows instead of {old.before}"
        else:
            words = f"{then} positions repeated to {now}" if now > then else f"the first {now} of {then} positions"
        return Change(torch.cat([leading, positions])[:, None], words)


@dataclass(frozen=True)
class Experts(Axis):
    """Experts. From one feed-forward: each starts as a copy of it (Komatsuzaki et al., 2022, arXiv:2212.05055)."""

    title = "experts"

    def resized(self, old: Axis, known: Known) -> Change | None:
        if old.size != 1:
            return None
        return Change(torch.zeros(self.size, 1, dtype=torch.long), f"copied to each of {self.size} experts")


@dataclass(frozen=True)
class Channels(Axis):
    """Channels that a norm scales by ``offset + weight``: with another offset, weights mean what they meant.

    Args:
        offset: what is added to the weight.
    """

    title = "channels"
    offset: float = 0.0

    def resized(self, old: Axis, known: Known) -> Change | None:
        assert isinstance(old, Channels)
        if self.size != old.size:
            return None
        return Change(_same(self.size), f"offset {old.offset:g} is now {self.offset:g}", shift=old.offset - self.offset)


def _same(size: int) -> Tensor:
    return torch.arange(size)[:, None]


def _appended(new: Axis, old: Axis, *, zero: bool) -> Change:
    sources = torch.full((new.size, 1), -1)
    sources[: old.size] = _same(old.size)
    how = "write 0" if zero else "are fresh"
    words = f"{old.size} {new.title}, and {new.size - old.size} new ones that {how}"
    return Change(sources, words, "zero" if zero else "fresh", new.each)
