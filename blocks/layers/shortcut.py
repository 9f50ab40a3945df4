"""A layer of two pairs of sublayers with a feed-forward across them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast

from torch import Tensor, nn

from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Context, Factory, FeedForward, Layer, Mixer, Residual, Site, check_one_stream
from blocks.feedforward.glu import GLU
from blocks.feedforward.moe import MixtureOfExperts
from blocks.residual.pre import PreNorm
from registry import Capabilities, register


@register("shortcut")
class ShortcutLayer(Layer):
    """Mixer, feed-forward, mixer, feed-forward, and a third feed-forward that reads the first one's input.

    Its output is added at the end of the layer only, so that experts can be computed and exchanged between devices
    while the sublayers between run.

    Args:
        mixer: mixes information across tokens; built twice.
        feedforward: transforms each token independently; built twice.
        shortcut: the feed-forward across the others.
        residual: wires a sublayer into the residual stream; built once per sublayer.
    """

    paper = "Cai et al., 2024, arXiv:2404.05019; Meituan LongCat Team, 2025, arXiv:2509.01322"
    formula = (
        "x_1 = residual(x, mixer_1); x_2 = residual(x_1, feedforward_1); x_3 = residual(x_2, mixer_2); "
        "y = residual(x_3, feedforward_2) + shortcut(x_1)"
    )
    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}))

    expected_failures: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "layer/shortcut/causal[mixer=mlstm]: bfloat16_matches_float64",
            "layer/shortcut/causal[residual=scaled]: bfloat16_matches_float64",
            "layer/shortcut/causal[residual=stochastic_depth]: bfloat16_matches_float64",
            "layer/shortcut/bidirectional[residual=scaled]: bfloat16_matches_float64",
            "layer/shortcut/bidirectional[residual=stochastic_depth]: bfloat16_matches_float64",
        ),
        "rounding changes the choice of experts",
    )

    def __init__(
        self,
        site: Site,
        *,
        mixer: Factory[Mixer] = MultiHeadAttention,
        feedforward: Factory[FeedForward] = GLU,
        shortcut: Factory[FeedForward] = MixtureOfExperts,
        residual: Factory[Residual] = PreNorm,
    ) -> None:
        super().__init__(site)
        mixers, feedforwards = [mixer(site) for _ in range(2)], [feedforward(site) for _ in range(2)]
        self.mixers, self.feedforwards = nn.ModuleList(mixers), nn.ModuleList(feedforwards)
        self.mixer_residuals = nn.ModuleList(residual(site) for _ in range(2))
        self.feedforward_residuals = nn.ModuleList(residual(site) for _ in range(2))
        self.shortcut = shortcut(site)
        if any(one.is_noop for one in (self.shortcut, *feedforwards)):
            raise ValueError("a shortcut goes across feed-forwards, none of which can be none; choose layer sequential")
        for wiring in self._wirings():
            check_one_stream(wiring.streams, "layer shortcut")

    def _wirings(self) -> list[Residual]:
        return cast("list[Residual]", [*self.mixer_residuals, *self.feedforward_residuals])

    @property
    def residual(self) -> Residual:
        """One of the residuals, which have the same parameters."""
        return self._wirings()[0]

    @property
    def identity_at_zero(self) -> bool:
        return all(one.identity_at_zero for one in self._wirings())

    def prepare(self, context: Context) -> None:
        for part in cast("list[Mixer | FeedForward]", [*self.mixers, *self.feedforwards, self.shortcut]):
            part.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        first, second = cast("list[FeedForward]", self.feedforwards)
        across: list[Tensor] = []

        def transform(y: Tensor) -> Tensor:
            across.append(self.shortcut(y))
            return first(y)

        x = self._mixed(x, context, 0)
        x = self.feedforward_residuals[0](x, transform)
        x = self._mixed(x, context, 1)
        return self.feedforward_residuals[1](x, second) + across[0]

    def _mixed(self, x: Tensor, context: Context, index: int) -> Tensor:
        own = replace(context, scope=f"{context.scope}{index}.")
        mixer, wiring = cast("list[Mixer]", self.mixers)[index], cast("list[Residual]", self.mixer_residuals)[index]
        return wiring(x, lambda y: mixer(y, own))
