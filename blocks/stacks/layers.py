"""A stack of layers, uniform or in a pattern."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, cast

from torch import Tensor, nn

from blocks.attention.key_reuse import sources_of
from blocks.attention.key_selector import check_choices
from blocks.base import (
    AttentionPositions,
    Axis,
    Context,
    Factory,
    Layer,
    Mixer,
    Norm,
    ReadoutFactory,
    Residual,
    Site,
    Stack,
    common_streams,
)
from blocks.base.component import flops_per_token
from blocks.layers.sequential import SequentialLayer
from blocks.norms.layer import LayerNorm
from blocks.readouts.mean import MeanReadout
from blocks.residual.stream_projections import StreamProjections
from registry import Capabilities, Depth, Positive, register

LAYOUT = frozenset({"layer", "layers", "first", "pattern", "rest"})
"""The parameters of a stack that only choose the layer at each index."""


@register("layers")
class LayerStack(Stack):
    """``depth`` layers in order, followed by a norm.

    If its layers have several residual streams, ``expansion`` makes them of the input, and ``readout`` makes them one
    vector again.

    Args:
        depth: number of layers.
        layer: every layer of a uniform stack.
        layers: named layers for ``first`` and ``pattern``; ``like: name`` copies another layer's settings; null: a
            uniform stack.
        first: names of the layers before the pattern.
        pattern: names of layers, repeated after ``first`` to fill ``depth``; null: a uniform stack.
        rest: if the pattern does not fill ``depth`` exactly, raise an error (error) or truncate the last repetition
            (cut).
        distinct: number of layers with their own weights, each run depth / distinct times in a row; null: all.
        positions: position bias shared by the scores of all self-attention mixers of the stack; null: disabled.
        expansion: how several residual streams begin: as copies of the input, or the first as the input and each other
            as a projection of it, scaled to its root mean square (projected).
        readout: reduces several residual streams to one vector for each token, before the norm; null: their mean.
        norm: norm after the last layer; null: disabled, as with post-norm layers.
    """

    paper = "sharing of layers: Lan et al., 2019, arXiv:1909.11942"
    formula = "y = norm(layer_L(... layer_2(layer_1(x))))"
    capabilities = Capabilities(positions=frozenset({"bias"}))

    def __init__(
        self,
        site: Site,
        *,
        depth: Depth = 6,
        layer: Factory[Layer] = SequentialLayer,
        layers: Mapping[str, Factory[Layer]] | None = None,
        first: tuple[str, ...] = (),
        pattern: tuple[str, ...] | None = None,
        rest: Literal["error", "cut"] = "error",
        distinct: Positive | None = None,
        positions: Factory[AttentionPositions] | None = None,
        expansion: Literal["copies", "projected"] = "copies",
        readout: ReadoutFactory | None = None,
        norm: Factory[Norm] | None = LayerNorm,
    ) -> None:
        super().__init__(site)
        site = replace(site, depth=depth)
        self._repeats = _repeats(depth, distinct)
        self.rest = rest if pattern else "error"  # applies to other depths of this stack
        plan = _plan(depth // self.repeats, layers, first, pattern, rest)
        self._uniform = len(set(plan)) == 1
        makers = [layer if name is None or layers is None else layers[name] for name in plan]
        self.layers = nn.ModuleList(make(replace(site, layer=index)) for index, make in enumerate(makers))
        check_choices(self.layers)
        self._sources = sources_of(self.layers)
        self._reads_inputs = any(isinstance(part, Mixer) and part.reads_inputs for part in self.layers.modules())
        self.positions = positions(site) if positions else None
        if self.positions is not None:
            self._check_positions(self.positions)
        self.streams = _streams(cast("list[Layer]", self.layers))
        projected = expansion == "projected" and self.streams > 1
        self.expansion = StreamProjections(site, self.streams) if projected else None
        self.readout = (readout or MeanReadout)(site, self.streams) if self.streams > 1 else None
        self.norm = norm(site) if norm else None

    def _check_positions(self, positions: AttentionPositions) -> None:
        scored = {mixer.scored_heads for mixer in self.modules() if isinstance(mixer, Mixer)} - {0}
        if positions.heads is not None and scored != {positions.heads}:
            found = ", ".join(map(str, sorted(scored))) or "none"
            raise ValueError(
                f"positions are for mixers with heads={positions.heads}, but the mixers of these layers have heads: "
                f"{found}; make them equal"
            )

    @property
    def depth(self) -> int:
        return len(self.layers) * self.repeats

    @property
    def repeats(self) -> int:
        return self._repeats

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {} if self.expansion is None else self.expansion.axes("expansion")

    def weight_sources(self, old: Stack) -> Mapping[str, str | None]:
        """Map layers to the trained layers that they start from.

        A deeper stack takes all trained layers first and starts the others fresh. A shallower one takes evenly spaced
        layers of a uniform stack, from first to last (Sanh et al., 2019, arXiv:1910.01108; Fan et al., 2019,
        arXiv:1909.11556), and the first layers of a pattern, so that kinds match. A stack of equal depth that shares
        weights differently takes the layer that ran at the same index.
        """
        if not isinstance(old, LayerStack):
            return {}
        here, there = len(self.layers), len(old.layers)
        places = list(range(min(here, there)))
        if 1 < here < there and old._uniform:
            places = [(index * (there - 1) + (here - 1) // 2) // (here - 1) for index in range(here)]
        if self.depth == old.depth:
            places = [index * self.repeats // old.repeats for index in range(here)]
        known = dict(enumerate(places))
        return {f"layers.{index}": f"layers.{known[index]}" if index in known else None for index in range(here)}

    def forward(self, x: Tensor, context: Context) -> Tensor:
        layers = cast("list[Layer]", self.layers)
        context.sources = self._sources
        if self._reads_inputs and context.inputs is None:  # sequence parallelism gives the vectors of all tokens
            context.inputs = x
        if self.positions is not None:
            context.bias = self.positions.bias(context)
        for layer in layers:
            layer.prepare(context)
        if self.readout is not None:
            x = x.unsqueeze(-2).expand(*x.shape[:-1], self.streams, -1)  # (B, T, N, D)
            # copied, as the first layer would be compiled apart from equal ones for other strides than theirs
            x = x.contiguous() if self.expansion is None else self.expansion(x)
        for index in range(self.depth):
            if context.cache is not None:
                context.layer = index
            x = layers[index // self.repeats](x, context)
        context.sources = frozenset()
        if self.readout is not None:
            x = self.readout(x)  # (B, T, D)
        return x if self.norm is None else self.norm(x)

    def flops_per_token(self, length: int) -> float:
        once = 0 if self.readout is None else self.readout.flops_per_token(length)
        once += 0 if self.expansion is None else flops_per_token(self.expansion, length)
        return (super().flops_per_token(length) - once) * self.repeats + once


def _streams(layers: list[Layer]) -> int:
    """Number of residual streams of the layers, which have to have the same number."""
    for index, layer in enumerate(layers):
        inside = [part.streams for part in layer.modules() if isinstance(part, Residual)]
        if max(inside, default=1) > (layer.streams or 1):
            raise ValueError(
                f"layer {index} has one residual stream, but a residual in it has {max(inside)}; choose a layer whose "
                "sublayers are wired by residuals alone, such as sequential"
            )
    return common_streams((layer.streams for layer in layers), "the layers of a stack") or 1


def _repeats(depth: int, distinct: int | None) -> int:
    """Number of consecutive runs of each layer."""
    if distinct is not None and (distinct > depth or depth % distinct):
        raise ValueError(f"depth={depth} is not a multiple of distinct={distinct}")
    return 1 if distinct is None else depth // distinct


def _plan(
    depth: int, layers: Mapping[str, object] | None, first: tuple[str, ...], pattern: tuple[str, ...] | None, rest: str
) -> list[str | None]:
    """The name of every layer; None in a uniform stack."""
    if layers is None and pattern is None and not first:
        return [None] * depth
    if not layers or not pattern:
        raise ValueError("layers and pattern must be given together: layers names them, pattern orders them")
    if unknown := [name for name in (*first, *pattern) if name not in layers]:
        raise ValueError(f"pattern names {unknown[0]!r}, but layers has only {', '.join(layers)}")
    if unused := [name for name in layers if name not in (*first, *pattern)]:
        raise ValueError(f"layers has {unused[0]!r}, but pattern never uses it")
    left = depth - len(first)
    if left < 0 or (left % len(pattern) and rest == "error"):
        before = f"{len(first)} first layers and " if first else ""
        raise ValueError(
            f"{before}a pattern of {len(pattern)} layers does not fill depth={depth}; "
            "use 'rest: cut' to truncate the last repetition"
        )
    return [*first, *(pattern[index % len(pattern)] for index in range(left))]
