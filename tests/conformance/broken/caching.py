"""Broken blocks that decode or cache wrongly."""

import torch
from torch import Tensor, nn

from blocks.attention.projection import HeadProjection
from blocks.attention.visibility import visibility
from blocks.base import AttentionPositions, Context, Factory, InputPositions, KeyValues, Linear, Mixer, Site
from blocks.positions.rotary import RotaryPositions
from blocks.positions.scaling import DynamicScaling
from registry import Capabilities
from tests.conformance.broken.base import CachedVectors, CausalMean, caught_by


@caught_by(
    "decodes_a_padded_batch", "decodes_after_reordering_the_cache", "decodes_in_chunks", "decodes_token_by_token"
)
class IgnoresTheCache(CausalMean):
    """Ignores its cache."""

    cache = False

    def visible(self, context: Context) -> Tensor:
        return super().visible(context)[..., context.offset :]


@caught_by("decodes_after_a_prefix")
class ForgetsThePrefixWithACache(CausalMean):
    """Reads a prefix in one direction where it has a cache."""

    def visible(self, context: Context) -> Tensor:
        if context.cache is not None:
            context.prefix = None
        return super().visible(context)


@caught_by("cache_size_is_as_declared", "cache_takes_at_most_twice_its_size")
class CachesCopies(CausalMean):
    """Keeps a second copy of the text with each token."""

    class Copies(CachedVectors):
        """All vectors so far, and all that were before."""

        def append(self, x: Tensor) -> Tensor:
            y = super().append(x)
            vars(self)[f"copy {y.shape[1]}"] = y.clone()
            return y

    def remembered(self, x: Tensor, context: Context) -> Tensor:
        before = context.state("mixer", self.Copies)
        return x if before is None else before.append(x)


@caught_by("cache_keeps_dtype_and_device")
class CachesHalfPrecision(CausalMean):
    """Keeps what it remembers in half the precision."""

    class Rounded(CachedVectors):
        """All vectors so far, of few digits."""

        def append(self, x: Tensor) -> Tensor:
            return super().append(x.half()).to(x.dtype)

    def remembered(self, x: Tensor, context: Context) -> Tensor:
        before = context.state("mixer", self.Rounded)
        return x if before is None else before.append(x)


@caught_by("new_cache_starts_empty")
class KeepsTheFirstToken(CausalMean):
    """Begins each text with the token that the text before began with, whatever the cache."""

    def remembered(self, x: Tensor, context: Context) -> Tensor:
        y = super().remembered(x, context)
        if context.cache is None:
            return y
        before, self.first = getattr(self, "first", y[:, :1]), x[:, :1].detach()
        return torch.cat([before, y[:, 1:]], dim=1)


@caught_by("decoding_has_the_same_length_limit")
class DecodesBeyondMaxLength(InputPositions):
    """Refuses a text that is too long, unless it comes token by token."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.table = nn.Embedding(site.max_length, site.dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if context.length > len(self.table.weight):
            raise ValueError(f"{context.length} tokens, but there are {len(self.table.weight)} positions")
        return x + self.table(context.positions % len(self.table.weight)).expand_as(x)


@caught_by("is_causal_with_a_cache")
class ChangesEarlierOutputs(CausalMean):
    """Adds the mean of a chunk to the output of the chunk before, in place."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if context.offset:
            self.before[0].add_(x.mean())
        y = super().forward(x, context)
        self.before = (y,)
        return y


@caught_by(
    "refuses_an_invalidated_cache",
    host=("attention_positions", "rotary", {"scaling": {"type": "keepsoldangles", "trained_length": 8}}),
)
class KeepsOldAngles(DynamicScaling):
    """Angles depend on the length of the text, which is not declared.

    Args:
        factor: growth of the base.
        trained_length: longest text in training, in tokens.
    """

    depends_on_length = False
    __init__ = DynamicScaling.__init__


class RotatedScores(Mixer):
    """One head of causal attention with positions: right but for what a test takes away."""

    outputs = ("out",)
    capabilities = Capabilities(places=frozenset({"causal"}), positions=frozenset({"rotation"}))

    def __init__(self, site: Site, *, positions: Factory[AttentionPositions] = RotaryPositions) -> None:
        super().__init__(site)
        self.q, self.k, self.v = (HeadProjection(site, site.dim, 1, site.dim, bias=False) for _ in "qkv")
        self.out, self.positions = Linear(site, site.dim, site.dim, bias=False), positions(site)

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        visibility(context, causal=True)
        self.positions.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.positions.rotate(self.q(x), context), self.k(x), self.v(x)
        k, v = self.kept(k, v, context)
        seen = visibility(context, causal=True).mask()
        scores = q @ k.transpose(-2, -1) * x.shape[-1] ** -0.5
        if seen is not None:
            scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def kept(self, k: Tensor, v: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        state, k = context.state("mixer", KeyValues), self.positions.rotate(k, context)
        return (k, v) if state is None else state.append(k, v)

    @property
    def cached_per_token(self) -> int:
        return 2 * self.out.in_features


@caught_by("decodes_token_by_token")
class RotatesCachedKeys(RotatedScores):
    """Rotates all cached keys by the positions of the new tokens."""

    __init__ = RotatedScores.__init__

    def kept(self, k: Tensor, v: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        if (state := context.state("mixer", KeyValues)) is not None:
            k, v = state.append(k, v)
        return self.positions.rotate(k, context), v


@caught_by("declares_the_positions_that_it_applies")
class DeclaresNoPositions(RotatedScores):
    """Applies positions and does not say which."""

    __init__ = RotatedScores.__init__
    capabilities = Capabilities(places=frozenset({"causal"}))
