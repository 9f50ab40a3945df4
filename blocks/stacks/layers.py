"""Layers, uniform or laid out by a pattern."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, cast

from torch import Tensor, nn

from blocks.base import Context, Factory, Layer, Norm, Site, Stack
from blocks.layers.sequential import SequentialLayer
from blocks.norms.layer import LayerNorm
from registry import NonNegative, register


@register("layers")
class LayerStack(Stack):
    """``depth`` layers in order, and a norm after them.

    Args:
        depth: number of layers.
        layer: what every layer is, if they are all alike.
        layers: layers by name, for ``pattern``; one may start from another with ``like: name``.
        pattern: names of ``layers`` from the first layer on, repeated to fill ``depth``.
        rest: what to do if the pattern does not fill ``depth`` exactly: refuse (error) or break off inside it (cut).
        norm: after the last layer; null for none, as with post-norm layers.
    """

    def __init__(
        self,
        site: Site,
        *,
        depth: NonNegative = 6,
        layer: Factory[Layer] = SequentialLayer,
        layers: Mapping[str, Factory[Layer]] | None = None,
        pattern: tuple[str, ...] | None = None,
        rest: Literal["error", "cut"] = "error",
        norm: Factory[Norm] | None = LayerNorm,
    ) -> None:
        super().__init__(site)
        site = replace(site, depth=depth)
        plan = _plan(depth, layers, pattern, rest)
        makers = [layer if name is None or layers is None else layers[name] for name in plan]
        self.layers = nn.ModuleList(make(replace(site, layer=index)) for index, make in enumerate(makers))
        self.norm = norm(site) if norm else None

    @property
    def depth(self) -> int:
        return len(self.layers)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        layers = cast("list[Layer]", self.layers)
        for layer in layers:
            layer.prepare(context)
        for index, layer in enumerate(layers):
            if context.cache is not None:
                context.layer = index
            x = layer(x, context)
        return x if self.norm is None else self.norm(x)


def _plan(
    depth: int, layers: Mapping[str, object] | None, pattern: tuple[str, ...] | None, rest: str
) -> list[str | None]:
    """The name of every layer, None where all are alike."""
    if layers is None and pattern is None:
        return [None] * depth
    if not layers or not pattern:
        raise ValueError("layers and pattern belong together: name the layers in one and lay them out in the other")
    if unknown := [name for name in pattern if name not in layers]:
        raise ValueError(f"pattern names {unknown[0]!r}, but layers has only {', '.join(layers)}")
    if unused := [name for name in layers if name not in pattern]:
        raise ValueError(f"layers has {unused[0]!r}, but pattern never uses it")
    if depth % len(pattern) and rest == "error":
        raise ValueError(
            f"a pattern of {len(pattern)} layers does not fill depth={depth}; say 'rest: cut' to break off inside it"
        )
    return [pattern[index % len(pattern)] for index in range(depth)]
