"""Working blocks to derive broken ones from, and the table of broken blocks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from blocks.base import Context, FeedForward, Mixer, Site
from blocks.models.decoder_only import DecoderOnly
from registry import Block, Capabilities

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Broken:
    """A broken block, the checks that have to fail, and where the block is tested."""

    block: type[Block]
    checks: frozenset[str]
    host: tuple[str, str, Mapping[str, Any]] | None


BROKEN: dict[str, Broken] = {}


def caught_by(*checks: str, host: tuple[str, str, Mapping[str, Any]] | None = None) -> Callable[[type[T]], type[T]]:
    """Adds a class to ``BROKEN``.

    Args:
        checks: names of checks that have to fail.
        host: slot, name and parameters of another block that contains this one, to be checked instead.
    """

    def add(block: type[T]) -> type[T]:
        BROKEN[block.__name__] = Broken(block, frozenset(checks), host)
        return block

    return add


class Mean(Mixer):
    """The mean of what a token may see, projected: right but for what a test takes away."""

    padding = cache = True
    outputs = ("out",)

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.out = nn.Linear(site.dim, site.dim)

    def visible(self, context: Context) -> Tensor:
        keys = torch.arange(context.offset + context.length, device=context.positions.device)
        seen = (keys[None, :] <= keys[context.offset :, None])[None]
        if self.site is not None and not self.site.causal:
            seen = torch.ones_like(seen)
        if context.prefix is not None:
            seen = seen | context.prefix[:, None]
        if context.attention_mask is not None and self.padding:
            seen = seen & context.attention_mask[:, None]
        if context.documents is not None:
            seen = seen & (context.documents[:, :, None] == context.documents[:, None])
        return seen

    def remembered(self, x: Tensor, context: Context) -> Tensor:
        before = context.state("mixer", CachedVectors)
        return x if before is None or not self.cache else before.append(x)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.remembered(x, context)
        seen = self.visible(context)[..., -x.shape[1] :].to(x.dtype)
        return self.out((seen @ x) / seen.sum(-1, keepdim=True).clamp(min=1))

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 2 * length * self.out.in_features

    @property
    def cached_per_token(self) -> int:
        return self.out.in_features if self.cache else 0


class CachedVectors:
    """All vectors so far."""

    def __init__(self) -> None:
        self.x: Tensor | None = None

    def append(self, x: Tensor) -> Tensor:
        self.x = x if self.x is None else torch.cat([self.x, x], dim=1)
        return self.x

    def reorder(self, rows: Tensor) -> None:
        if self.x is not None:
            self.x = self.x[rows]


class CausalMean(Mean):
    """The mean of what came before, projected."""

    capabilities = Capabilities(places=frozenset({"causal"}))


class BidirectionalMean(Mean):
    """The mean of all, projected."""

    capabilities = Capabilities(places=frozenset({"bidirectional"}))


class Projection(FeedForward):
    """A projection: right but for what a test does to it."""

    outputs = ("out",)

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.out = nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)


class AlteredModel(DecoderOnly):
    """A model right but for what a test does to it."""

    __init__ = DecoderOnly.__init__
    paper: ClassVar[str] = ""
