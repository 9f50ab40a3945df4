"""How a layer wires its blocks, found by following its forward and not by knowing the layer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.fx.proxy import TraceError

from blocks.base import Component, Layer, Residual
from registry import entry_of

OPERATIONS = {"add": "+", "iadd": "+", "mul": "×", "sub": "-"}


@dataclass(frozen=True)
class Step:
    """One block on the way: its name in the layer, and itself."""

    name: str
    block: Component


@dataclass(frozen=True)
class Merge:
    """Several ways that begin at one point and are joined; an empty way is the stream that passes by.

    Attributes:
        operation: such as ``+``.
        ways: from the common point, in the order in which they are written.
        label: names of the residuals that join them, the outermost first.
    """

    operation: str
    ways: "tuple[Wiring, ...]"
    label: str = ""


Wiring = tuple[Step | Merge, ...]


def wiring_of(layer: Layer) -> Wiring | None:
    """The steps from a layer's input to its output; None if its forward cannot be followed."""
    tracer = _Tracer()
    try:
        graph = tracer.trace(layer.eval())
    except (TraceError, NotImplementedError, RuntimeError, TypeError, AttributeError):
        return None  # a forward that looks at values, or does what no graph can say
    stream, *_ = (node for node in graph.nodes if node.op == "placeholder")
    (result,) = (node.args[0] for node in graph.nodes if node.op == "output")
    return _Follower(layer, stream).way(result, stream)


class _Tracer(fx.Tracer):
    """Goes into residuals and layers, and takes every other block as a whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, Residual | Layer)


class _Follower:
    def __init__(self, layer: Layer, stream: fx.Node) -> None:
        self.layer, self.stream = layer, stream
        self.points: dict[fx.Node, list[fx.Node]] = {stream: [stream]}
        for node in stream.graph.nodes:
            if node not in self.points and (sources := self._sources(node)):
                common = set(self.points[sources[0]]).intersection(*(self.points[source] for source in sources))
                self.points[node] = [*(point for point in self.points[sources[0]] if point in common), node]

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """The values of this layer that a node is made of."""
        return [source for source in node.all_input_nodes if source in self.points]

    def way(self, node: fx.Node, begin: fx.Node) -> Wiring:
        """The steps from one value to another that it leads to."""
        if node is begin:
            return ()
        sources = self._sources(node)
        if len(sources) == 1:
            block = self.layer.get_submodule(str(node.target)) if node.op == "call_module" else None
            own = (Step(str(node.target), block),) if isinstance(block, Component) else ()
            return (*self.way(sources[0], begin), *own)
        shared = set(self.points[sources[0]]).intersection(*(self.points[source] for source in sources))
        point = [one for one in self.points[sources[0]] if one in shared][-1]
        name = getattr(node.target, "__name__", str(node.target))
        operation = OPERATIONS.get(name, name)
        ways = [way for source in sources for way in self._flat(self.way(source, point), operation)]
        return (*self.way(point, begin), Merge(operation, tuple(ways), self._label(node)))

    def _flat(self, way: Wiring, operation: str) -> Iterator[Wiring]:
        """A sum of a sum is one sum."""
        if len(way) == 1 and isinstance(way[0], Merge) and way[0].operation == operation:
            yield from way[0].ways
        else:
            yield way

    def _label(self, node: fx.Node) -> str:
        stack: dict[str, Any] = node.meta.get("nn_module_stack", {})
        modules = [self.layer.get_submodule(path) for path, _ in stack.values()]
        return " ".join(entry_of(type(module)).name for module in modules if isinstance(module, Residual))
