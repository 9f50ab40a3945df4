"""A layer of any number of mixers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Context, Factory, FeedForward, Layer, Mixer, Residual, Site, common_streams
from blocks.feedforward.mlp import MLP
from blocks.recurrent.gated_convolution import GatedConvolution
from blocks.residual.pre import PreNorm
from registry import Capabilities, register


@register("consecutive")
class ConsecutiveLayer(Layer):
    """Several mixers one after another, and a feed-forward, each in its own residual.

    Args:
        mixers: the mixers, in order, by names of your choice.
        feedforward: transforms each token independently.
        residual: wires a sublayer into the residual stream; built once per sublayer.
    """

    paper = "Gulati et al., 2020, arXiv:2005.08100; Peng et al., 2023, arXiv:2305.13048"
    formula = "x_1 = residual(x, mixer_1); x_2 = residual(x_1, mixer_2); ...; y = residual(x_n, feedforward)"
    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}))

    def __init__(
        self,
        site: Site,
        *,
        mixers: Mapping[str, Factory[Mixer]] = {"attention": MultiHeadAttention, "convolution": GatedConvolution},
        feedforward: Factory[FeedForward] = MLP,
        residual: Factory[Residual] = PreNorm,
    ) -> None:
        super().__init__(site)
        if not mixers:
            raise ValueError("mixers is empty; give at least one")
        self.mixers, self.mixer_residuals = nn.ModuleDict(), nn.ModuleDict()
        for name, make in mixers.items():
            if not name.isidentifier() or hasattr(self.mixers, name):
                raise ValueError(f"mixers cannot have the name {name!r}; choose another, of letters and digits")
            self.mixers[name], self.mixer_residuals[name] = make(site), residual(site)
        built = feedforward(site)
        self.feedforward, self.feedforward_residual = (None, None) if built.is_noop else (built, residual(site))
        self.streams = common_streams((wiring.streams for wiring in self._wirings()), "the sublayers of a layer")

    def _wirings(self) -> list[Residual]:
        last = self.feedforward_residual
        return [*(wiring for _, _, wiring in self._steps()), *([] if last is None else [last])]

    def _steps(self) -> list[tuple[str, Mixer, Residual]]:
        residuals = cast("dict[str, Residual]", self.mixer_residuals)
        return [(name, mixer, residuals[name]) for name, mixer in cast("dict[str, Mixer]", self.mixers).items()]

    @property
    def identity_at_zero(self) -> bool:
        return all(wiring.identity_at_zero for wiring in self._wirings())

    def prepare(self, context: Context) -> None:
        for _, mixer, _ in self._steps():
            mixer.prepare(context)
        if self.feedforward is not None:
            self.feedforward.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        for name, mixer, wiring in self._steps():
            own = replace(context, scope=f"{context.scope}{name}.")
            x = wiring(x, lambda y, mixer=mixer, own=own: mixer(y, own))
        if self.feedforward is not None and self.feedforward_residual is not None:
            x = self.feedforward_residual(x, self.feedforward)
        return x
