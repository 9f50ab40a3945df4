"""A layer with sequential sublayers."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from blocks.attention.cross import CrossAttention
from blocks.attention.softmax import MultiHeadAttention
from blocks.base import (
    Axis,
    Context,
    Factory,
    FeedForward,
    Fixed,
    Intermediate,
    Layer,
    LookupFactory,
    Mixer,
    Residual,
    Site,
    common_streams,
    described,
)
from blocks.feedforward.mlp import MLP
from blocks.residual.pre import PreNorm
from registry import register


@register("sequential")
class SequentialLayer(Layer):
    """Mixer, cross mixer (in the decoder of an encoder-decoder), feed-forward, last mixer, each in its own residual.

    Args:
        mixer: mixes information across tokens.
        cross: attends to the encoder's output; built in the decoder of an encoder-decoder only.
        feedforward: transforms each token independently.
        last_mixer: another mixer, after the feed-forward; null: none.
        residual: wires a sublayer into the residual stream; built once per sublayer.
        mixer_residual: residual of the mixer; null: ``residual``.
        cross_residual: residual of the cross mixer; null: ``residual``.
        feedforward_residual: residual of the feed-forward; null: ``residual``.
        last_residual: residual of the last mixer; null: ``residual``.
        lookup: adds what it looks up by token ids to the stream, before the mixer; null: disabled.
        output_scale: multiply the layer's output by a learned number, 1 at the start.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762, section 3.1; output scale: Google, 2026 (Gemma 4)"
    formula = (
        "x_1 = x + lookup(x); x_2 = residual(x_1, mixer); x_3 = residual(x_2, cross); "
        "x_4 = residual(x_3, feedforward); y = s * residual(x_4, last_mixer)"
    )
    intermediates = described(
        looked_up=Intermediate(
            "The vectors x that came in, plus those that are looked up by token ids.",
            ("...", "width"),
            "x + lookup(x)",
            ("input",),
            needs="lookup",
        ),
        output=Intermediate("The stream after the layer, times a learned number.", ("...", "width"), "s x"),
    )

    def __init__(
        self,
        site: Site,
        *,
        mixer: Factory[Mixer] = MultiHeadAttention,
        cross: Factory[Mixer] = CrossAttention,
        feedforward: Factory[FeedForward] = MLP,
        last_mixer: Factory[Mixer] | None = None,
        residual: Factory[Residual] = PreNorm,
        mixer_residual: Factory[Residual] | None = None,
        cross_residual: Factory[Residual] | None = None,
        feedforward_residual: Factory[Residual] | None = None,
        last_residual: Factory[Residual] | None = None,
        lookup: LookupFactory | None = None,
        output_scale: bool = False,
    ) -> None:
        super().__init__(site)
        own = replace(site, memory_dim=None)
        mixing = mixer(own)
        self.mixer, self.mixer_residual = (
            (None, None) if mixing.is_noop else (mixing, (mixer_residual or residual)(own))
        )
        crosses = site.memory_dim is not None
        self.cross, self.cross_residual = (cross(site), (cross_residual or residual)(own)) if crosses else (None, None)
        built = feedforward(own)
        wiring = feedforward_residual or residual
        self.feedforward, self.feedforward_residual = (None, None) if built.is_noop else (built, wiring(own))
        last = None if last_mixer is None else last_mixer(own)
        self.last_mixer, self.last_residual = (
            (None, None) if last is None or last.is_noop else (last, (last_residual or residual)(own))
        )
        self.output_scale = nn.Parameter(torch.ones(1)) if output_scale else None
        self.streams = common_streams((wiring.streams for wiring in self._wirings()), "the sublayers of a layer")
        self.lookup = lookup(own, self.streams or 1) if lookup else None

    def _wirings(self) -> list[Residual]:
        wirings = (self.mixer_residual, self.cross_residual, self.feedforward_residual, self.last_residual)
        return [wiring for wiring in wirings if wiring is not None]

    def constants(self) -> Mapping[str, float]:
        return {"output_scale": 1.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"output_scale": (Fixed(1),)}

    @property
    def identity_at_zero(self) -> bool:
        return all(wiring.identity_at_zero for wiring in self._wirings())

    def prepare(self, context: Context) -> None:
        if self.lookup is not None:
            self.lookup.prepare(context)
        if self.mixer is not None:
            self.mixer.prepare(context)
        if self.feedforward is not None:
            self.feedforward.prepare(context)
        if self.last_mixer is not None:
            self.last_mixer.prepare(context)
        if self.cross is not None:
            self.cross.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if self.lookup is not None:
            x = x + self.lookup(x, context)
            self.record(looked_up=x)
        if (mixer := self.mixer) is not None and self.mixer_residual is not None:
            x = self.mixer_residual(x, lambda y: mixer(y, context))
        if (cross := self.cross) is not None and self.cross_residual is not None:
            x = self.cross_residual(x, lambda y: cross(y, context))
        if self.feedforward is not None and self.feedforward_residual is not None:
            x = self.feedforward_residual(x, self.feedforward)
        if (last := self.last_mixer) is not None and self.last_residual is not None:
            own = replace(context, scope=f"{context.scope}last.")  # cached apart from the first mixer
            x = self.last_residual(x, lambda y: last(y, own))
        return x if self.output_scale is None else x * self.output_scale.to(x.dtype)
