"""A layer whose sublayers write a narrower stream."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast

from torch import Tensor, nn

from blocks.attention.softmax import MultiHeadAttention
from blocks.base import (
    Axis,
    Context,
    Factory,
    FeedForward,
    Layer,
    Linear,
    Mixer,
    Norm,
    Residual,
    Site,
    check_one_stream,
)
from blocks.feedforward.mlp import MLP
from blocks.norms.layer import LayerNorm
from blocks.residual.post import PostNorm
from registry import Capabilities, Positive, register


@register("bottleneck")
class BottleneckLayer(Layer):
    """Narrow the stream, add a mixer of the wide one, transform it several times, and widen it again.

    Args:
        narrow_width: width of the narrow stream; null: dim / 4.
        mixer: mixes information across tokens; it reads the wide stream and writes the narrow one.
        feedforward: transforms each token of the narrow stream independently.
        feedforwards: number of feed-forwards, one after another, each with its own weights.
        norm: norm of the narrowed stream, and of its sum with the mixer's output.
        residual: wires a feed-forward into the narrow stream; built once per feed-forward.
        outer: residual that wires the widened result into the stream of the layers.
    """

    paper = "Sun et al., 2020, arXiv:2004.02984"
    formula = (
        "n_0 = norm(down(x)); n_1 = norm(n_0 + mixer(x)); n_2 = residual(n_1, feedforward_1); ...; y = outer(x, up(n))"
    )
    outputs = ("up",)
    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}))

    expected_failures: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "layer/bottleneck/causal[narrow_width=2]: attends_exactly_its_window",
            "layer/bottleneck/bidirectional[narrow_width=2]: attends_exactly_its_window",
            "layer/bottleneck/causal[narrow_width=2]: prefix_depends_on_all_of_itself",
        ),
        "a norm over two channels makes all vectors equal up to a sign",
    )

    def __init__(
        self,
        site: Site,
        *,
        narrow_width: Positive | None = None,
        mixer: Factory[Mixer] = MultiHeadAttention,
        feedforward: Factory[FeedForward] = MLP,
        feedforwards: Positive = 4,
        norm: Factory[Norm] = LayerNorm,
        residual: Factory[Residual] = PostNorm,
        outer: Factory[Residual] = PostNorm,
    ) -> None:
        super().__init__(site)
        if narrow_width == 1:
            raise ValueError("narrow_width=1 leaves nothing that a norm could compare; make it at least 2")
        narrow = site.resized(narrow_width or max(site.dim // 4, 2))
        self.down = Linear(site, site.dim, narrow.dim)
        self.norm = norm(narrow)
        mixing = mixer(replace(site, output_dim=narrow.dim))
        self.mixer, self.mixer_norm = (None, None) if mixing.is_noop else (mixing, norm(narrow))
        built = [feedforward(narrow) for _ in range(feedforwards)]
        if built[0].is_noop and feedforwards > 1:
            raise ValueError(f"feedforwards={feedforwards} of none are none; set it to 1")
        used = [] if built[0].is_noop else built
        self.feedforwards = nn.ModuleList(used)
        self.residuals = nn.ModuleList(residual(narrow) for _ in used)
        self.up = Linear(site, narrow.dim, site.dim)
        self.outer = outer(site)
        for wiring in (*cast("list[Residual]", list(self.residuals)), self.outer):
            check_one_stream(wiring.streams, "layer bottleneck")

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"down.weight": (None, None), "up.weight": (None, None)}

    @property
    def identity_at_zero(self) -> bool:
        return self.outer.identity_at_zero

    def prepare(self, context: Context) -> None:
        if self.mixer is not None:
            self.mixer.prepare(context)
        for feedforward in cast("list[FeedForward]", list(self.feedforwards)):
            feedforward.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.outer(x, lambda y: self.up(self._narrow(y, context)))

    def _narrow(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, narrow_width)"""
        y = self.norm(self.down(x))
        if self.mixer is not None and self.mixer_norm is not None:
            y = self.mixer_norm(y + self.mixer(x, context))
        for wiring, feedforward in zip(self.residuals, self.feedforwards, strict=True):
            y = wiring(y, feedforward)
        return y
